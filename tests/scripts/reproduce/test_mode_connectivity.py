"""Figure mode-connectivity: pairs of networks, what they have in common, exact resume, the verdict."""

import pytest
import torch
from made_figures import rows_of_stopped_and_whole

from plasticity.mitigations import MITIGATIONS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.mode_connectivity import (
    ONE_ANCHOR,
    POINTS,
    TWO_ANCHORS,
    Pair,
    PairTraining,
)
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_SEEN, PARTLY, Verdict

FIGURE = FIGURES["mode-connectivity"]
TINY = {
    "stream.dataset": "digits",
    "stream.pool": 1,
    "stream.num_train": 64,
    "stream.num_test": 32,
    "stream.batch_size": 16,
    "stream.num_steps": 6,
    "tracking.measure_every": 2,
    "agent.width": 6,
}


def made(*method, **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, values | {"method": tuple(method)})


# ---- pairs ------------------------------------------------------------------------------------------


def test_the_networks_of_a_pair_differ_in_weights_and_order():
    pair = Pair([made()], stacked=False)
    first, second = pair.members
    assert first.network.fc1.weight.shape == (6, 64)
    assert not torch.equal(first.network.fc1.weight, second.network.fc1.weight)
    assert not torch.equal(first.epochs.rows(0), second.epochs.rows(0))
    assert torch.equal(first.data.test_inputs, second.data.test_inputs)


@pytest.mark.parametrize("shared", [True, False])
def test_anchors_and_fixed_weights_are_those_of_the_pair_or_not(shared):
    syre = MITIGATIONS["syre"](strength=0.1, sigma=1.0)
    pair = Pair([made(syre, agent__shared_anchor=shared)], stacked=False)
    seeds = [member.optimizer.param_groups[0]["anchor_seed"] for member in pair.members]
    assert (seeds[0] == seeds[1]) == shared
    fixed = MITIGATIONS["w-asymmetric"](share=0.5)
    pair = Pair([made(fixed, agent__shared_anchor=shared)], stacked=False)
    weights = [member.network.fc1.weight for member in pair.members]
    assert ((weights[0] == weights[1]).float().mean().item() > 0.4) == shared


def test_the_line_between_two_networks():
    pair = Pair([made()], stacked=False)
    found = pair.measure(0)
    data = pair.members[0].data
    ends = [
        torch.nn.functional.cross_entropy(member.network(data.test_inputs), data.test_labels)
        for member in pair.members
    ]
    assert found["loss_0"] == pytest.approx(ends[0].item())
    assert found[f"loss_{POINTS - 1}"] == pytest.approx(ends[1].item())
    # Matching does not change the function at the ends.
    assert found[f"matched_loss_{POINTS - 1}"] == pytest.approx(ends[1].item(), rel=1e-5)
    losses = [found[f"loss_{point}"] for point in range(POINTS)]
    shares = [point / (POINTS - 1) for point in range(POINTS)]
    straight = [(1 - share) * losses[0] + share * losses[-1] for share in shares]
    excess = max(loss - line for loss, line in zip(losses, straight, strict=True))
    assert found["barrier"] == pytest.approx(excess, abs=1e-6)


def test_a_permuted_copy_has_no_barrier_after_matching():
    pair = Pair([made()], stacked=False)
    first, second = (member.network for member in pair.members)
    order = torch.tensor([3, 0, 1, 5, 4, 2])
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        second.fc1.weight.copy_(first.fc1.weight[order])
        second.fc1.bias.copy_(first.fc1.bias[order])
        second.fc2.weight.copy_(first.fc2.weight[:, order])
    found = pair.measure(0)
    assert found["matched_barrier"] == pytest.approx(0.0, abs=1e-6)
    losses = [found[f"matched_loss_{point}"] for point in range(POINTS)]
    assert losses == pytest.approx([losses[0]] * POINTS, rel=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="depth must be at least 1"):
        PairTraining(depth=0)
    with pytest.raises(TypeError, match="shared_anchor"):
        PairTraining(shared_anchor=1)


# ---- resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("syre", "shift"), ("w-asymmetric",)])
def test_a_pair_that_was_stopped_continues_exactly(tmp_path, names):
    config = made(*(MITIGATIONS[name]() for name in names), seed=3)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------

BARRIERS = {
    "none": 0.7,
    "weight-decay": 0.8,
    ONE_ANCHOR: 0.1,
    TWO_ANCHORS: 0.9,
    "w-asymmetric": 0.05,
    "shift": 0.2,
}


def results(barriers=BARRIERS, **accuracy):
    arms = []
    for arm in FIGURE.arms("small"):
        runs = []
        for seed in range(3):
            row = {"barrier": barriers[arm.name], "matched_barrier": 0.02, "train_accuracy": 0.99}
            row |= {f"{p}loss_{i}": 0.2 for p in ("", "matched_") for i in range(POINTS)}
            own = accuracy.get(arm.name, 0.92)
            row |= {f"{p}accuracy_{i}": own for p in ("", "matched_") for i in range(POINTS)}
            row = {name: value + 0.0001 * seed for name, value in row.items()}
            row |= {"step": 1500.0, "diverged": 0.0}
            config = {"benchmark": "mode-connectivity", "method": {}, "seed": seed}
            runs.append(Run(None, config, (row,), half_written=False))
        arms.append((arm, runs))
    return Results(arms)


def verdict(*given, **accuracy):
    found = results(*given, **accuracy)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_it_holds_if_all_is_as_claimed():
    assert verdict().outcome == HOLDS


@pytest.mark.parametrize(
    ("failed", "change"),
    [
        ([1], {"weight-decay": 0.05}),
        ([2], {TWO_ANCHORS: 0.05}),
        ([3], {"w-asymmetric": 0.01}),
        ([5], {"shift": 0.05}),
    ],
)
def test_it_holds_partly_if_a_part_is_otherwise(failed, change):
    found = verdict(BARRIERS | change)
    assert found.outcome == PARTLY
    assert [index for index, each in enumerate(found.claims) if not each.passed] == failed


def test_accuracy_that_is_lost_is_a_cost():
    found = verdict(BARRIERS, **{ONE_ANCHOR: 0.89})
    assert [index for index, each in enumerate(found.claims) if not each.passed] == [4]


def test_it_fails_if_syres_barrier_is_the_highest_and_accuracy_is_lost():
    assert verdict(BARRIERS | {ONE_ANCHOR: 2.0}, **{ONE_ANCHOR: 0.5}).outcome == FAILS


def test_plain_networks_without_accuracy_or_barrier_mean_nothing():
    assert verdict(BARRIERS, none=0.89).outcome == NOT_SEEN
    assert verdict(BARRIERS | {"none": 0.2}).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = results()
    said = FIGURE.sentence(found)
    assert "barrier: none 0.70 [0.70, 0.70], weight-decay 0.80" in said
    assert "after matching: none 0.02" in said
    panels = FIGURE.panels(found)
    assert [len(row) for row in panels] == [2, 2]
    assert [line.label for line in panels[0][0].lines] == list(BARRIERS)
    assert panels[0][1].lines[0].mean.tolist() == pytest.approx([0.92] * POINTS, abs=1e-3)
    assert panels[0][0].lines[0].positions.tolist()[:2] == [0.0, 0.1]
    FIGURE.draw(found, "caption")
