"""Figure vit: the directions that its heads lose, exact resume, and the verdict on made-up results."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import SigmaAsymmetric, Syre, WAsymmetric, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY
from plasticity.scripts.reproduce.vit import LINES, TransformerTraining, head_eigenvalues
from plasticity.scripts.reproduce.vit import Transformers as Experiment

FIGURE = FIGURES["vit"]
TINY = {
    "stream.dataset": "digits",
    "stream.num_train": 40,
    "stream.num_test": 20,
    "stream.pool": 1,
    "stream.num_steps": 6,
    "stream.batch_size": 16,
    "tracking.measure_every": 2,
    "agent.depth": 2,
    "agent.width": 8,
    "agent.heads": 2,
}
DECAY = WeightDecay(strength=0.01)
METHODS = {
    "weight-decay": (DECAY,),
    "syre": (Syre(strength=0.01, sigma=0.5),),
    "w-asymmetric": (WAsymmetric(kappa=0.1), DECAY),
    "sigma-asymmetric": (SigmaAsymmetric(), DECAY),
}


def made(method=(), **changes):
    return with_values(FIGURE.config, {**TINY, **changes, "method": method, "seed": 3})


# ---- the heads --------------------------------------------------------------------------------------


def test_the_lost_directions_of_each_head():
    experiment = Experiment([made()], stacked=False)
    start = experiment.measure(0)
    assert start["lost_share"] == 0
    attention = experiment.network.block2.attention
    with (
        torch.no_grad()
    ):  # the second head of block 2 loses two of its directions, the first its queries'
        for layer in (attention.query, attention.key):
            layer.weight[4:6] *= 0.01
        attention.query.weight[0] = 0
    found = experiment.measure(0)
    assert [found[f"degree_{head}"] for head in (1, 2, 3, 4)] == [0, 0, 0, 2]
    assert found["lost_share"] == 2 / 16


def test_a_direction_is_lost_at_a_tenth_of_the_weights_at_the_start():
    experiment = Experiment([made()], stacked=False)
    attention = experiment.network.block1.attention
    mean = torch.cat(head_eigenvalues(experiment.network)).mean().item()
    for factor, lost in ((0.105, 0), (0.095, 4)):
        with torch.no_grad():
            attention.query.weight.zero_()
            attention.key.weight.zero_()
            # two orthogonal rows of one length, so that all eigenvalues of the head are its square
            attention.key.weight[:4, :4] = factor * mean**0.5 * torch.eye(4)
            attention.key.weight[4:, :4] = torch.eye(4)
        assert experiment.measure(0)["degree_1"] == lost


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="width of 48 cannot be split into 5 heads"):
        TransformerTraining(heads=5)


# ---- runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
def test_a_run_that_was_stopped_continues_exactly(tmp_path, line):
    config = made(METHODS[line])
    assert "+".join(each.name for each in config.method) == LINES[line]
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    assert whole.count(b"\n") == 3


def test_arms():
    arms = FIGURE.arms("small")
    assert len(arms) == 12
    assert {(arm.name, arm.method) for arm in arms} == set(LINES.items())
    names = [sorted(arm.settings) for arm in arms if arm.name == "w-asymmetric"]
    assert names == [["input-scale", "weight-decay.strength"]] * 2


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    decay = arm.settings.get("syre.strength", arm.settings.get("weight-decay.strength"))
    lost = {"syre": 0.0, "weight-decay": 80 * decay}.get(arm.name, 0.5)
    accuracy = {"syre": 0.4, "weight-decay": 0.38}.get(arm.name, 0.3)
    return {
        "train_accuracy": accuracy + 0.01,
        "test_accuracy": accuracy,
        "lost_share": lost,
        "degree_1": 4 * lost,
        "degree_2": 2 * lost,
    }


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 7


@pytest.mark.parametrize(
    ("failed", "lines", "metric", "value"),
    [
        ([0, 1, 4], ("weight-decay",), "lost_share", 0.05),  # it loses none
        ([1, 4], ("syre",), "lost_share", 0.75),  # as many as weight decay, but for 0.05
        ([2, 5], ("w-asymmetric",), "test_accuracy", 0.41),
        ([3, 6], ("sigma-asymmetric",), "test_accuracy", 0.41),
    ],
)
def test_it_holds_in_part_if_some_is_otherwise(failed, lines, metric, value):
    def values(arm, step):
        found = as_claimed(arm, step)
        return found | {metric: value} if arm.name in lines else found

    verdict = made_verdict(FIGURE, values)
    assert verdict.outcome == PARTLY
    assert failed_claims(verdict) == failed


def test_a_plain_arm_that_has_not_learnt_means_nothing():
    verdict = made_verdict(
        FIGURE, lambda arm, step: as_claimed(arm, step) | {"train_accuracy": 0.3}
    )
    assert verdict.outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    assert "syre: share of lost directions 0.00 [0.00, 0.00], test accu" in FIGURE.sentence(found)
    (lost, _, by_head), (accuracy, over_scale) = FIGURE.panels(found)
    assert [line.label for line in lost.lines] == list(LINES)
    assert lost.lines[0].positions.tolist() == [1e-4, 1e-3, 1e-2]
    assert lost.lines[0].mean.tolist() == pytest.approx([0.008, 0.08, 0.8], rel=1e-3)
    assert accuracy.lines[2].positions.tolist() == [1e-2]
    assert over_scale.lines[2].positions.tolist() == [0.2, 1.0]
    assert by_head.lines[0].mean.tolist() == pytest.approx([3.2, 1.6], rel=1e-3)
    FIGURE.draw(found, "caption")
