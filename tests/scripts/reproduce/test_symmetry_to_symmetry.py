"""Figure symmetry-to-symmetry: its examples, its counts, exact resume, and the verdict on made-up results."""

import math
from dataclasses import replace

import pytest
import torch
from made_figures import failed_claims, made_results, rows_of_stopped_and_whole
from torch import nn

from plasticity import permutation_distance
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.symmetry_to_symmetry import (
    CURVES,
    TARGETS,
    Descents,
    DescentTraining,
    FixedExamples,
    coincidence,
    falls,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, Verdict

FIGURE = FIGURES["symmetry-to-symmetry"]
TINY = {
    "stream.num_steps": 9,
    "stream.input_dim": 3,
    "stream.output_dim": 2,
    "stream.num_examples": 10,
    "agent.num_hidden": 2,
    "agent.width": 4,
    "tracking.measure_every": 3,
}


def made(**changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, {**values, "seed": 3})


# ---- the students -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_labels_have_a_mean_square_of_1(target):
    experiment = Descents([made(stream__target=target, agent__initial_scale=0.0)], stacked=False)
    assert experiment.labels.shape == (10, 2)
    assert experiment.measure(0)["loss"] == pytest.approx(1.0)  # a network of zeros


def test_curves_by_hand():
    assert CURVES["polynomial"](torch.tensor([3.0, -3.0])).tolist() == [12.0, -12.0]
    assert CURVES["sinusoid"](torch.tensor(math.pi / 4)).item() == pytest.approx(1.0)


def test_both_curves_are_of_the_same_projection():
    labels = {}
    for target in CURVES:
        labels[target] = Descents([made(stream__target=target)], stacked=False).labels
    # Projections are under pi / 2 for most inputs, where both curves have the sign of z.
    assert (labels["polynomial"] * labels["sinusoid"] > 0).float().mean() > 0.8


def test_weights_start_at_the_scale():
    chosen = {"agent__width": 200, "agent__initial_scale": 0.3}
    experiment = Descents([made(**chosen)], stacked=False)
    linear = [each for each in experiment.network if isinstance(each, nn.Linear)]
    assert [each.weight.shape[0] for each in linear] == [200, 200, 2]
    for each in linear[:2]:
        spread = each.weight.std().item() * each.in_features**0.5
        assert spread == pytest.approx(0.3, rel=0.1)


def test_all_distances_are_in_a_row_and_those_over_the_threshold_are_broken():
    experiment = Descents([made(agent__initial_scale=1.0)], stacked=False)
    network = experiment.network
    row = experiment.measure(0)
    expected = [
        permutation_distance(network[0].weight, network[2].weight),
        permutation_distance(network[2].weight, network[4].weight),
    ]
    for layer, distances in enumerate(expected, start=1):
        found = [row[f"distance_{layer}_{rank}"] for rank in (1, 2, 3)]
        assert found == sorted(distances.tolist(), reverse=True)
    assert row["broken_share"] == pytest.approx((torch.cat(expected) > 0.5).float().mean().item())
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert experiment.measure(0)["broken_share"] == 0.0


def test_every_step_is_on_all_examples():
    experiment = Descents([made()], stacked=False)
    weight = experiment.network[0].weight
    before = weight.detach().clone()
    (gradient,) = torch.autograd.grad(experiment.loss(), weight)
    experiment.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"[Uu]nknown target"):
        FixedExamples(target="line")
    with pytest.raises(ValueError, match="initial_scale"):
        DescentTraining(initial_scale=-1.0)


def test_a_student_that_was_stopped_continues_exactly(tmp_path):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(), 5)
    assert parts == whole
    assert len(whole.splitlines()) == 3


# ---- counts in the rows -----------------------------------------------------------------------------


def test_falls_are_those_between_plateaus():
    plateau, low, lowest = [1.0] * 4, [0.6] * 4, [0.1] * 4
    assert falls(plateau + low + lowest) == 2
    assert falls([1.0, 0.8, *low]) == 0  # no plateau before it
    assert falls([*plateau, 0.8, 0.6, 0.3, 0.1]) == 0  # none after it
    assert falls([*plateau, 0.8, 0.7, 0.7, *low]) == 1  # two rows of 0.7 are no plateau
    assert falls(plateau + [0.96] * 4) == 0  # 4 % of the start
    assert falls(plateau + [1.3] * 4 + [0.5] * 4) == 1  # a rise is none
    assert falls([0.9**n for n in range(40)]) == 0  # smooth: 10 % a row


def test_coincidence_is_a_correlation_of_changes():
    losses = [1.0, 1.0, 0.5, 0.5, 0.2, 0.2]
    assert coincidence(losses, [0.0, 0.0, 0.5, 0.5, 0.8, 0.8]) == pytest.approx(1.0)
    assert coincidence(losses, [0.8, 0.8, 0.3, 0.3, 0.0, 0.0]) == pytest.approx(-1.0)
    assert coincidence(losses, [0.0, 0.5, 0.5, 0.8, 0.8, 0.8]) < 0.0  # one row early
    assert coincidence(losses, [1.0] * 6) is None
    assert coincidence([1.0, 0.5], [0.0, 1.0]) is None


# ---- the verdict ------------------------------------------------------------------------------------

STEPPED = [1.0] * 4 + [0.6] * 4 + [0.1] * 4
BREAKING = [0.0] * 4 + [0.4] * 4 + [0.9] * 4
SMOOTH = [0.7**n for n in range(1, 13)]
STEPS = range(1, 13)


def as_claimed(arm, step):
    small = "small" in arm.name
    losses, broken = (STEPPED, BREAKING) if small else (SMOOTH, [1.0] * 12)
    distances = {f"distance_{layer}_{rank}": 0.1 * step for layer in (1, 2) for rank in (1, 2)}
    return {"loss": losses[step - 1], "broken_share": broken[step - 1], **distances}


def verdict(values):
    found = made_results(FIGURE, values, steps=STEPS)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_it_holds_if_all_is_as_claimed():
    found = verdict(as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 7


@pytest.mark.parametrize(
    ("failed", "line", "metric", "values"),
    [
        ([0, 3], "teacher, small start", "loss", [1.0] * 4 + SMOOTH[4:]),
        ([1], "polynomial, small start", "loss", [1.0] * 4 + [0.1] * 8),
        ([3], "teacher, normal start", "loss", STEPPED),
        ([6], "sinusoid, small start", "broken_share", [0.0] + [0.9] * 11),
    ],
)
def test_a_claim_fails_if_its_part_is_otherwise(failed, line, metric, values):
    def otherwise(arm, step):
        return as_claimed(arm, step) | ({metric: values[step - 1]} if arm.name == line else {})

    assert set(failed) <= set(failed_claims(verdict(otherwise)))


@pytest.mark.parametrize(("metric", "value"), [("loss", 0.3), ("broken_share", 0.1)])
def test_students_that_do_not_learn_or_start_broken_mean_nothing(metric, value):
    def values(arm, step):
        found = as_claimed(arm, step)
        return found | {metric: max(found[metric], value)}

    assert verdict(values).outcome == NOT_SEEN


def test_runs_that_diverged_have_no_counts():
    results = made_results(FIGURE, as_claimed, steps=STEPS)
    for last in (0, 5):  # rows before the one without a loss
        arms = []
        for arm, runs in results.arms:
            end = {"step": last + 1.0, "loss": None, "broken_share": 0.5, "diverged": 1.0}
            arms.append((arm, [replace(run, rows=(*run.rows[:last], end)) for run in runs]))
        found = Results(arms)
        assert not any(each.passed for each in (*FIGURE.requirements(found), *FIGURE.claims(found)))
        assert "small start: no value falls" in FIGURE.sentence(found)


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed, steps=STEPS)
    sentence = FIGURE.sentence(found)
    assert "teacher, small start: 2 [2, 2] falls of the loss" in sentence
    assert "normal start: 0 [0, 0] falls" in sentence
    (loss, broken), (small, normal) = FIGURE.panels(found)
    assert len(loss.lines) == len(broken.lines) == 5
    assert [len(line.seeds) for line in small.lines] == [2, 2]
    assert normal.lines[0].mean.tolist() == pytest.approx([0.1 * step for step in STEPS])
    FIGURE.draw(found, "caption")
