"""Figure identical-neurons: what its networks start as, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import (
    failed_claims,
    made_results,
    made_verdict,
    rows_of_stopped_and_whole,
)

from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.identical_neurons import TiedNetworks, TiedTraining
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN

FIGURE = FIGURES["identical-neurons"]
TINY = {
    "stream.num_steps": 12,
    "stream.input_dim": 3,
    "stream.output_dim": 2,
    "stream.num_examples": 20,
    "tracking.measure_every": 4,
    "agent.width": 8,
    "agent.identical_share": 0.75,
}


def made(method=(), **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "method": method, "seed": 3})


# ---- the networks -----------------------------------------------------------------------------------


def test_a_share_of_the_neurons_is_equal():
    found = TiedNetworks([made()], stacked=False).measure(0)
    assert found["identical_pairs"] == 5  # of six equal neurons
    assert found["rank"] <= 3
    assert found["regained"] == found["rank"] - 3
    whole = TiedNetworks([made(agent__identical_share=0.0)], stacked=False).measure(0)
    assert whole["identical_pairs"] == 0
    assert whole["regained"] == whole["rank"] - 8


def test_the_number_of_different_neurons():
    shares = {
        0.0: 32,
        1 / 32: 32,
        0.25: 25,
        0.9: 4,
        1.0: 1,
    }  # of 32, of which 0, 1, 8, 29, 32 are one
    assert {s: TiedTraining(width=32, identical_share=s).distinct for s in shares} == shares


def test_labels_have_a_mean_square_of_1_which_is_the_error_of_nothing():
    experiment = TiedNetworks([made()], stacked=False)
    for parameter in experiment.second.parameters():
        torch.nn.init.zeros_(parameter)
    assert experiment.measure(0)["error"] == pytest.approx(1.0, abs=1e-6)


def test_only_syre_parts_equal_neurons():
    pairs = {}
    for name, method in {
        "none": (),
        "weight-decay": (WeightDecay(strength=0.1),),
        "syre": (Syre(strength=0.1, sigma=1.0),),
    }.items():
        experiment = TiedNetworks([made(method)], stacked=False)
        for _ in range(5):
            experiment.step()
        pairs[name] = experiment.measure(0)["identical_pairs"]
    assert pairs == {"none": 5, "weight-decay": 5, "syre": 0}


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="identical_share must be at most 1"):
        TiedTraining(identical_share=1.5)
    with pytest.raises(ValueError, match="width"):
        TiedTraining(width=1)
    with pytest.raises(ValueError, match="num_examples"):
        made(stream__num_examples=0)


@pytest.mark.parametrize("method", [(), (Syre(strength=0.1),)])
def test_a_network_that_was_stopped_continues_exactly(tmp_path, method):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(method), 6)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    """Values as the paper has them, of 32 neurons."""
    share = arm.settings["identical-share"]
    if arm.method == "syre":
        return {"error": 0.01, "rank": 32, "regained": 32 * share, "identical_pairs": 0}
    stuck = {"error": 0.01 + share / 5, "rank": 32 * (1 - share), "regained": 0}
    return stuck | {"identical_pairs": 32 * share}


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 13  # 2 x 4 ranks, 2 errors, the rank of syre, 2 errors below


@pytest.mark.parametrize(
    ("failed", "method", "changes"),
    [
        ([0, 1, 2, 3], "none", {"regained": 1}),
        ([4, 5, 6, 7], "weight-decay", {"regained": 1}),
        ([8, 11], "none", {"error": 0.009}),
        ([11, 12], "syre", {"error": 0.3}),
    ],
)
def test_each_part_is_looked_at(failed, method, changes):
    def values(arm, step):
        return as_claimed(arm, step) | (changes if arm.method == method else {})

    assert failed_claims(made_verdict(FIGURE, values)) == failed


def test_a_rank_that_syre_does_not_bring_back_is_noted():
    def values(arm, step):
        found = as_claimed(arm, step)
        if arm.method == "syre" and arm.settings["identical-share"]:
            found["rank"] = 28  # of 32
        return found

    assert failed_claims(made_verdict(FIGURE, values)) == [10]


@pytest.mark.parametrize("method", ["none", "weight-decay"])
def test_networks_that_learn_nothing_mean_nothing(method):
    def values(arm, step):
        return as_claimed(arm, step) | ({"error": 0.06} if arm.method == method else {})

    assert made_verdict(FIGURE, values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=(400, 4000))
    sentence = FIGURE.sentence(found)
    assert "at a share of 0.9, none: error 0.19 [0.19, 0.19], rank 3.2 [3.2, 3.2]" in sentence
    over_share, over_steps = FIGURE.panels(found)
    assert [line.label for line in over_share[0].lines] == ["none", "weight-decay", "syre"]
    assert over_share[1].lines[1].positions.tolist() == [0, 0.25, 0.5, 0.75, 0.9]
    assert over_share[1].lines[1].mean.tolist() == pytest.approx([32, 24, 16, 8, 3.2], rel=0.01)
    assert over_steps[1].lines[2].positions.tolist() == [400, 4000]
    FIGURE.draw(found, "caption")
