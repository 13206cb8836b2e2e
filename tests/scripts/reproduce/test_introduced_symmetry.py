"""Figure introduced-symmetry: the layer with factors, pruning by hand, exact resume, the verdict."""

import pytest
import torch
from made_figures import rows_of_stopped_and_whole

from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.introduced_symmetry import (
    LEVELS,
    OFF,
    FactoredLinear,
    FactoredNetwork,
    against_pruning,
    pruned,
)
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_SEEN, PARTLY, Verdict

FIGURE = FIGURES["introduced-symmetry"]
TINY = {
    "stream.dataset": "digits",
    "stream.pool": 1,
    "stream.num_train": 64,
    "stream.num_test": 32,
    "stream.batch_size": 16,
    "stream.num_steps": 6,
    "tracking.measure_every": 2,
    "agent.width": 5,
}


def made(**changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, values)


# ---- the layer and the pruning ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factors", "shape"), [("plain", None), ("rows", (2, 1)), ("weights", (2, 3))]
)
def test_the_layer_is_that_of_torch_at_first(factors, shape):
    layer = FactoredLinear(3, 2, factors)
    inputs = torch.randn(4, 3)
    expected = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
    torch.testing.assert_close(layer(inputs), expected)
    if shape is None:
        assert layer.factor is None
        return
    assert layer.factor.shape == shape
    with torch.no_grad():  # the symmetry: both signs flipped
        layer.factor.neg_()
        layer.weight.neg_()
    torch.testing.assert_close(layer(inputs), expected)


def test_pruning_by_hand():
    weight = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert pruned(weight, 1, rows=True).tolist() == [[3.0, -1.0], [0.0, 0.0]]
    assert pruned(weight, 2, rows=False).tolist() == [[3.0, 0.0], [0.0, 2.0]]
    assert torch.equal(pruned(weight, 0, rows=True), weight)
    assert not pruned(weight, 4, rows=False).any()


def test_what_is_off_and_the_accuracy_without_it():
    experiment = FactoredNetwork([made(agent__factors="rows")], stacked=False)
    found = experiment.measure(0)
    assert found["rows_off"] == 0.0
    assert not any(name.startswith("pruned") for name in found)
    with torch.no_grad():
        experiment.layer.factor[:2] = 0.5 * OFF  # rows of about the mean norm
        experiment.layer.factor[2] = -1.0
    assert experiment.measure(0)["rows_off"] == pytest.approx(0.4)
    inputs, labels = experiment.data.test_inputs, experiment.data.test_labels
    with torch.no_grad():
        experiment.layer.factor[:2] = 0.0
        expected = (experiment.network(inputs).argmax(1) == labels).float().mean().item()
    assert experiment.measure(0)["accuracy"] == pytest.approx(expected)


def test_single_weights_that_are_off():
    experiment = FactoredNetwork([made(agent__factors="weights")], stacked=False)
    before = experiment.measure(0)["weights_off"]
    with torch.no_grad():
        experiment.layer.factor[0, :32] = 0.0
        experiment.layer.weight[:, 32:].fill_(1.0)
    found = experiment.measure(0)
    assert 32 / 320 <= found["weights_off"] <= 32 / 320 + before
    assert found["rows_off"] == 0.0


def test_a_plain_layer_is_pruned_at_every_level():
    experiment = FactoredNetwork([made()], stacked=False)
    found = experiment.measure(0)
    for part in ("rows", "weights"):
        assert found[f"pruned_{part}_0"] == found["accuracy"]
    # Without a hidden unit but for the biases, every image has the same class.
    labels = experiment.data.test_labels
    with torch.no_grad():
        hidden = experiment.layer.bias.relu()
        predicted = experiment.network[3](hidden).argmax()
    expected = (labels == predicted).float().mean().item()
    assert found[f"pruned_rows_{LEVELS}"] == pytest.approx(expected)
    assert found[f"pruned_weights_{LEVELS}"] == pytest.approx(expected)


# ---- resume -----------------------------------------------------------------------------------------


def test_a_network_that_was_stopped_continues_exactly(tmp_path):
    config = made(agent__factors="rows", method=(WeightDecay(strength=1e-2),), seed=3)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------


def results(values):
    arms = []
    for arm in FIGURE.arms("small"):
        runs = []
        for seed in range(3):
            row = values(arm.name, arm.settings["weight-decay.strength"])
            row = {name: value + 0.0001 * seed for name, value in row.items()}
            row |= {"step": 4000.0, "diverged": 0.0}
            config = {"benchmark": "introduced-symmetry", "method": {}, "seed": seed}
            runs.append(Run(None, config, (row,), half_written=False))
        arms.append((arm, runs))
    return Results(arms)


def as_claimed(form, strength):
    off = 100 * strength  # 0.01 … 0.3
    accuracy = 0.92
    found = {"train_accuracy": 0.99, "accuracy": accuracy, "rows_off": 0.01, "weights_off": 0.02}
    if form == "plain":
        for part in ("rows", "weights"):
            for level in range(LEVELS + 1):
                found[f"pruned_{part}_{level}"] = accuracy - 0.05 * level
    else:
        found |= {"rows_off": off + 0.02, "weights_off": off + 0.1}
    return found


def verdict(values):
    found = results(values)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_it_holds_if_all_is_as_claimed():
    assert verdict(as_claimed).outcome == HOLDS


def test_the_rival_is_pruned_as_much_rounded_down():
    found = results(as_claimed)
    # rows: 0.32 of 16 levels are 5.1, so level 5: lower by 0.25
    assert against_pruning(found, "rows", 3e-3).mean == pytest.approx(0.25)
    # weights: 0.4 of 16 are 6.4
    assert against_pruning(found, "weights", 3e-3).mean == pytest.approx(0.30)


@pytest.mark.parametrize(
    ("failed", "form", "change"),
    [
        ([0, 2], "rows", {"rows_off": 0.0}),
        ([1], "weights", {"weights_off": 0.01}),
        ([2], "rows", {"rows_off": 0.3}),
        ([3], "rows", {"accuracy": 0.5}),
        ([4], "weights", {"accuracy": 0.5}),
    ],
)
def test_it_holds_partly_if_a_part_is_otherwise(failed, form, change):
    def values(line, strength):
        return as_claimed(line, strength) | (change if line == form else {})

    found = verdict(values)
    assert found.outcome == PARTLY
    assert [index for index, each in enumerate(found.claims) if not each.passed] == failed


def test_it_fails_if_nothing_is_switched_off_but_accuracy_is_lost():
    def values(form, strength):
        found = as_claimed(form, strength)
        lost = {"accuracy": 0.5, "rows_off": 0.0, "weights_off": 0.0}
        return found if form == "plain" else found | lost

    assert verdict(values).outcome == FAILS


@pytest.mark.parametrize("change", [{"train_accuracy": 0.94}, {"rows_off": 0.06}])
def test_a_plain_layer_that_has_not_learnt_or_is_off_itself_means_nothing(change):
    def values(form, strength):
        return as_claimed(form, strength) | (change if form == "plain" else {})

    assert verdict(values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = results(as_claimed)
    said = FIGURE.sentence(found)
    assert "share of rows off from decay 0.0001 to 0.003: 0.03 [0.03, 0.03] to 0.32" in said
    assert "minus that of a plain layer pruned alike 0.250" in said
    ((rows, weights, accuracy),) = FIGURE.panels(found)
    assert [line.label for line in rows.lines] == ["plain", "rows", "weights"]
    assert weights.lines[2].positions.tolist() == [1e-4, 3e-4, 1e-3, 3e-3]
    assert accuracy.lines[0].mean.tolist() == pytest.approx([0.92] * 4, abs=1e-3)
    FIGURE.draw(found, "caption")
