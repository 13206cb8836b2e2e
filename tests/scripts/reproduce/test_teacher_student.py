"""Figure teacher-student: its closed forms, exact resume, and the verdict on made-up results."""

import json
import math

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.teacher_student import (
    Students,
    TeacherData,
    mean_product,
    second_moment,
)
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["teacher-student"]
TINY = {
    "stream.num_steps": 12,
    "stream.input_dim": 3,
    "stream.teacher_width": 2,
    "tracking.measure_every": 4,
    "agent.width": 5,
}


def rows64(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def made(**changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, values)


# ---- closed forms -----------------------------------------------------------------------------------


def test_the_second_moment_of_rectified_projections():
    one, other = rows64([3.0, 0.0]), rows64([2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, 0.0])
    # The same direction: half of E(3x · 2x) = 3. Opposite ones are never both positive. Independent ones:
    # the product of the means 3 / √(2π) and 2 / √(2π). A zero vector: 0.
    expected = [3.0, 0.0, 6 / (2 * math.pi), 0.0]
    assert second_moment(one, other)[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_mean_product_is_that_of_many_inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (4,), (2, 3), (2,)]
    weights = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    inputs = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    f, g = (torch.relu(inputs @ a.T) @ b for a, b in (weights[:2], weights[2:]))
    products = f * g
    error = products.std().item() / len(inputs) ** 0.5
    found = mean_product((weights[0], weights[1]), (weights[2], weights[3])).item()
    assert abs(found - products.mean().item()) < 4 * error


def test_the_labels_have_a_mean_square_of_1():
    experiment = Students([made()], stacked=False)
    inputs = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    labels = experiment.teacher(inputs)
    assert labels.square().mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_error_is_0_for_the_teacher_and_1_for_nothing():
    experiment = Students([made(agent__width=2)], stacked=False)
    incoming, outgoing = experiment.network[0].weight, experiment.network[2].weight
    with torch.no_grad():
        outgoing.zero_()
        assert experiment.measure(0)["error"] == pytest.approx(1.0, abs=1e-6)
        incoming.copy_(experiment.teacher.weights[0] * 2)  # ReLU is homogeneous
        outgoing.copy_(experiment.teacher.weights[1] / 2)
        assert experiment.measure(0)["error"] == pytest.approx(0.0, abs=1e-6)
        incoming.copy_(incoming.flip(0))
        outgoing.copy_(outgoing.flip(1))
        assert experiment.measure(0)["error"] == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_error_and_the_noise_on_the_labels():
    # With 200,000 examples, the loss is within 4 standard errors of error + noise².
    config = made(stream__batch_size=200_000, stream__label_noise=0.5)
    experiment = Students([config], stacked=False)
    expected = experiment.measure(0)["error"] + 0.25
    assert experiment.loss().item() == pytest.approx(expected, rel=0.03)


def test_noise_on_the_inputs_is_the_students_alone():
    # A student equal to the teacher errs by noise only; a silent one errs by the labels, whatever the noise.
    config = made(stream__batch_size=200_000, stream__input_noise=2.0, agent__width=2)
    experiment = Students([config], stacked=False)
    with torch.no_grad():
        experiment.network[2].weight.zero_()
        assert experiment.loss().item() == pytest.approx(1.0, rel=0.03)
        experiment.network[0].weight.copy_(experiment.teacher.weights[0])
        experiment.network[2].weight.copy_(experiment.teacher.weights[1])
        assert experiment.loss().item() > 0.5


def test_the_share_of_symmetric_pairs_and_the_rank():
    experiment = Students([made()], stacked=False)
    assert experiment.measure(0)["symmetric_share"] == 0.0
    with torch.no_grad():  # three of five neurons are one: two of the four pairs
        for neuron in (1, 2):
            experiment.network[0].weight[neuron] = experiment.network[0].weight[0]
            experiment.network[2].weight[:, neuron] = experiment.network[2].weight[:, 0]
    assert experiment.measure(0)["symmetric_share"] == 0.5
    with torch.no_grad():  # all features proportional to one
        experiment.network[0].weight[:] = experiment.network[0].weight[0]
    found = experiment.measure(0)
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert found["srank"] == 1.0


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="input_dim must be at least 1"):
        TeacherData(input_dim=0)
    with pytest.raises(ValueError, match="label_noise"):
        TeacherData(label_noise=-0.1)


# ---- resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FIGURE.methods)
def test_a_student_that_was_stopped_continues_exactly(tmp_path, method):
    from plasticity.scripts.config.benchmarks import BENCHMARKS

    mitigations = () if method == "none" else (BENCHMARKS["teacher-student"].mitigation(method),)
    noisy = {"stream__label_noise": 0.5, "stream__input_noise": 0.5}
    config = with_values(made(**noisy), {"method": mitigations, "seed": 3})
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 6)
    assert parts == whole
    assert [json.loads(row)["step"] for row in whole.splitlines()] == [4, 8, 12]


# ---- the verdict ------------------------------------------------------------------------------------


def results(values):
    """Results whose values are a function of method and settings, in the small scale's arms."""
    return made_results(FIGURE, lambda arm, step: values(arm.method, **arm.settings))


def as_claimed(method, **settings):
    """Values as the paper has them."""
    dim, noise = settings["input-dim"], settings["label-noise"]
    share = {"none": 0.01, "weight-decay": 0.5, "syre": 0.5 / dim}[method]
    rank = {"none": 30.0, "weight-decay": 20.0 - 5 * noise, "syre": 30.0 - noise}[method]
    return {"error": 0.01, "symmetric_share": share, "effective_rank": rank}


def verdict(values):
    return made_verdict(FIGURE, lambda arm, step: values(arm.method, **arm.settings))


def test_it_holds_if_all_is_as_claimed():
    found = verdict(as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 4


@pytest.mark.parametrize(
    ("failed", "method", "metric", "value"),
    [
        (0, "syre", "symmetric_share", lambda dim, noise: 0.3),  # whatever the dimension
        (1, "weight-decay", "symmetric_share", lambda dim, noise: 0.5 / dim),  # as syre
        (2, "weight-decay", "effective_rank", lambda dim, noise: 20.0 + noise),  # rises
        (3, "syre", "effective_rank", lambda dim, noise: 30.0 - 5 * noise),  # by a sixth
    ],
)
def test_it_does_not_hold_if_a_part_is_otherwise(failed, method, metric, value):
    def values(arm, **settings):
        found = as_claimed(arm, **settings)
        if arm == method:
            found[metric] = value(settings["input-dim"], settings["label-noise"])
        return found

    found = verdict(values)
    assert found.outcome == PARTLY
    assert failed_claims(found) == [failed]


@pytest.mark.parametrize("metric", ["error", "symmetric_share"])
def test_a_plain_arm_that_has_not_learnt_or_is_not_symmetric_means_nothing(metric):
    def values(arm, **settings):
        found = as_claimed(arm, **settings)
        if arm == "weight-decay":
            found[metric] = 0.06  # too much of the one, too little of the other
        return found

    assert verdict(values).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = results(as_claimed)
    assert "syre: share of symmetric pairs 0.25 [0.25, 0.25] at 2 inputs" in FIGURE.sentence(found)
    assert "rank 20.0 [20.0, 20.0] without and 15.0 [15.0, 15.0] with" in FIGURE.sentence(found)
    (panels,) = FIGURE.panels(found)
    share, labels, inputs = panels
    assert [line.label for line in share.lines] == ["none", "weight-decay", "syre"]
    assert share.lines[2].positions.tolist() == [2, 8, 32, 128]
    assert labels.lines[1].mean.tolist() == pytest.approx([20.0, 17.5, 15.0], abs=0.01)
    assert inputs.lines[1].positions.tolist() == [0, 1, 2]
    FIGURE.draw(found, "caption")


def test_syres_anchor_has_the_same_spread_in_every_dimension():
    for arm in FIGURE.arms("full"):
        if arm.method == "syre":
            spread = arm.settings["syre.sigma"] / arm.settings["input-dim"] ** 0.5
            assert spread == pytest.approx(0.05, rel=1e-3)
