"""Figure ntk-rank: its bounds, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.ntk_rank import TiedClassifiers, TiedTraining
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN

FIGURE = FIGURES["ntk-rank"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_steps": 6,
    "stream.num_train": 200,
    "stream.pool": 2,
    "stream.batch_size": 10,
    "tracking.measure_every": 2,
    "tracking.kernel_examples": 30,
    "tracking.gradient_examples": 200,
    "agent.width": 8,
    "agent.tied_neurons": 6,
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- the networks -----------------------------------------------------------------------------------


def test_the_parameters_that_are_left():
    # 16 inputs, 8 units, 10 outputs: 8 · 17 + 10 · 9 = 226, of which 17 + 10 for each neuron
    expected = {1: 226, 2: 199, 6: 91, 8: 37}
    for tied, left in expected.items():
        experiment = TiedClassifiers([made(agent__tied_neurons=tied)], stacked=False)
        assert experiment.parameters_left == left


def walked(method):
    experiment = TiedClassifiers([made(method)], stacked=False)
    for _ in range(6):
        experiment.step()
        experiment.steps += 1
    return experiment.measure(0)


@pytest.mark.parametrize("method", [(), (WeightDecay(strength=0.1),)])
def test_ranks_stay_bounded_while_tied_neurons_are_trained(method):
    found = walked(method)
    for name in ("ntk", "gradient"):
        assert found[f"{name}_excess"] == found[f"{name}_rank"] - 91
        assert 50 < found[f"{name}_rank"] <= 91
    assert 1 <= found["ntk_effective_rank"] < found["ntk_rank"]


def test_ranks_are_not_bounded_under_syre():
    found = walked((Syre(strength=0.1, sigma=1.0),))
    assert found["ntk_excess"] > 0
    assert found["gradient_excess"] > 0
    assert found["parameters_left"] == 91


def test_measuring_leaves_the_network_as_it_is():
    experiment = TiedClassifiers([made()], stacked=False)
    before = [each.clone() for each in experiment.network.parameters()]
    experiment.measure(0)
    after = list(experiment.network.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(each.dtype == torch.float32 for each in after)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="tied_neurons must be at least 1 and at most 5"):
        TiedTraining(width=5, tied_neurons=6)
    with pytest.raises(ValueError, match="kernel_examples"):
        made(tracking__kernel_examples=0)


@pytest.mark.parametrize("method", [(), (Syre(strength=0.1),)])
def test_a_network_that_was_stopped_continues_exactly(tmp_path, method):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(method), 3)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    """Values as the paper has them, of 10 neurons with 60 parameters each and 10 more."""
    left = 610 - 60 * (arm.settings["tied-neurons"] - 1)
    ranks = {"ntk": left - 20, "gradient": left - 30, "ntk_effective": left / 20}
    if arm.method == "syre":
        ranks = {"ntk": 500, "gradient": 480, "ntk_effective": 30}
    return {
        "accuracy": 0.9,
        "parameters_left": left,
        **{f"{name}_rank": rank for name, rank in ranks.items()},
        **{f"{name}_excess": ranks[name] - left for name in ("ntk", "gradient")},
    }


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert (
        len(found.claims) == 12
    )  # 2 methods x 2 numbers x 2 ranks, 2 ranks of syre, 2 effective ones


@pytest.mark.parametrize(
    ("failed", "method", "changes"),
    [
        ([0, 2], "none", {"ntk_excess": 1}),
        ([5, 7], "weight-decay", {"gradient_excess": 1}),
        ([8], "syre", {"ntk_excess": 0}),
        ([9], "syre", {"gradient_excess": -1}),
        ([10, 11], "syre", {"ntk_effective_rank": 5}),
    ],
)
def test_each_part_is_looked_at(failed, method, changes):
    def values(arm, step):
        return as_claimed(arm, step) | (changes if arm.method == method else {})

    assert failed_claims(made_verdict(FIGURE, values)) == failed


@pytest.mark.parametrize("changes", [{"accuracy": 0.7}, {"ntk_rank": 100}, {"gradient_rank": 100}])
def test_a_plain_network_that_learns_nothing_or_has_no_rank_to_lose_means_nothing(changes):
    def values(arm, step):
        return as_claimed(arm, step) | (changes if arm.method == "none" else {})

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(1000, 3000))
    sentence = FIGURE.sentence(found)
    assert "9 tied neurons, parameters left 130 [130, 130]; none: tangent kernel 110" in sentence
    over_tied, over_steps = FIGURE.panels(found)
    names = ["none", "weight-decay", "syre"]
    for kernel, gradients, effective in (over_tied, over_steps):
        for panel in (kernel, gradients):
            assert [line.label for line in panel.lines] == [*names, "parameters left"]
        assert [line.label for line in effective.lines] == names
    assert over_tied[0].lines[3].mean.tolist() == pytest.approx([610, 370, 130], rel=0.01)
    assert over_steps[0].lines[3].mean.tolist() == pytest.approx([130, 130], rel=0.01)
    assert over_tied[1].lines[0].positions.tolist() == [1, 5, 9]
    assert over_steps[1].lines[2].positions.tolist() == [1000, 3000]
    FIGURE.draw(found, "caption")
