"""Figure reflection-objective: its minimum in closed form, syre's fixed point, resume, and the verdict."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import Dropout, LayerNorm, Syre, WeightDecay, WFix
from plasticity.modules.noise import SeededDropout
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.reflection_objective import STRENGTHS, Descents, Objective
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["reflection-objective"]


def made(*method, seed=3, **stream):
    values = {"size": 6, "num_steps": 12, **stream}
    settings = {f"stream.{name}": value for name, value in values.items()}
    return with_values(
        FIGURE.config, {**settings, "method": method, "tracking.measure_every": 4, "seed": seed}
    )


def walked(*method, steps=0, **stream):
    experiment = Descents([made(*method, **stream)], stacked=False)
    for _ in range(steps):
        experiment.step()
        experiment.steps += 1
    return experiment


def put(experiment, point):
    with torch.no_grad():
        experiment.network.fc1.weight.copy_(point[None])


@pytest.mark.parametrize("matrix", ["unstructured", "structured"])
def test_reflections_leave_the_objective_as_it_is(matrix):
    experiment = walked(matrix=matrix)
    torch.testing.assert_close(experiment.matrix, experiment.matrix.T)
    is_diagonal = bool((experiment.matrix == experiment.matrix.diag().diag()).all())
    assert is_diagonal == (matrix == "structured")
    point = torch.randn(6, dtype=torch.float64)
    expected = experiment.objective(point, experiment.matrix)
    for normal in experiment.vectors.T:
        mirrored = point - 2 * normal * (normal @ point)
        torch.testing.assert_close(experiment.objective(mirrored, experiment.matrix), expected)


@pytest.mark.parametrize("matrix", ["unstructured", "structured"])
def test_the_minimum_is_that_of_the_closed_form(matrix):
    """√-λ along the eigenvector, found by descent; all reflections but one are whole."""
    experiment = walked(matrix=matrix, steps=600)
    found = experiment.measure(0)
    lowest = torch.linalg.eigvalsh(experiment.matrix)[0].item()
    assert found["loss"] == pytest.approx(-(lowest**2) / 4, rel=1e-4)
    assert found["gap"] == pytest.approx(0.0, abs=1e-4)
    assert found["symmetric_share"] == pytest.approx(5 / 6)
    put(experiment, torch.zeros(6))
    assert experiment.measure(0) == {"loss": 0.0, "gap": 1.0, "symmetric_share": 1.0}


def test_the_matrix_has_the_spectrum_of_a_semicircle():
    experiment = walked(size=200)
    values = torch.linalg.eigvalsh(experiment.matrix)
    assert values.square().mean().item() == pytest.approx(1.0, rel=0.05)
    assert values.abs().max().item() == pytest.approx(2.0, rel=0.1)


def test_syre_ends_where_its_force_is_that_of_the_anchor():
    """(A + |w|² + strength) w = strength · anchor, which no reflection leaves whole for a strong one."""
    experiment = walked(Syre(strength=0.5, sigma=3.0), steps=600)
    weight = experiment.network.fc1.weight
    point, anchor = weight.detach()[0], experiment.optimizer.anchor(weight)[0]
    force = experiment.as_trained @ point + (point.square().sum() + 0.5) * point
    torch.testing.assert_close(force, 0.5 * anchor, atol=1e-4, rtol=0)
    assert experiment.measure(0)["symmetric_share"] < 0.5


def test_dropout_acts_on_the_weights_in_training_only():
    experiment = walked(Dropout(probability=0.5), size=400)
    assert isinstance(experiment.network.noise, SeededDropout)
    point = experiment.network.fc1.weight.detach()[0]
    dropped = experiment.network()
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    torch.testing.assert_close(dropped[dropped != 0], 2 * point[dropped != 0])
    experiment.network.eval()
    assert torch.equal(experiment.network(), experiment.network.fc1.weight[0])


def test_w_fix_holds_weights():
    experiment = walked(WFix(share=0.5), size=50, steps=0)
    before = experiment.network.fc1.weight.detach().clone()
    experiment.step()
    held = experiment.network.fc1.weight_is_fixed
    assert 0 < held.sum() < 50
    assert torch.equal(experiment.network.fc1.weight != before, ~held)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="structured"):
        Objective(matrix="unstructure")
    with pytest.raises(ValueError, match="size must be at least 2"):
        Objective(size=1)
    with pytest.raises(ValueError, match="no activations or normalizations"):
        walked(LayerNorm())


@pytest.mark.parametrize(
    "method", [(), (WeightDecay(),), (WFix(share=0.5),), (Dropout(),), (Syre(sigma=0.5),)]
)
def test_a_run_that_was_stopped_continues_exactly(tmp_path, method):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(*method), 6)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    """Values as the paper has them: a price that only syre does not have."""
    if arm.method == "none":
        return {"gap": 0.001, "symmetric_share": 0.98}
    option, values = STRENGTHS[arm.method]
    part = values.index(arm.settings[option]) / (len(values) - 1)  # from weak to strong
    if arm.method == "syre":
        return {"gap": 0.001 + 0.2 * part**2, "symmetric_share": 0.95 - 0.9 * part}
    return {"gap": 0.01 + 0.5 * part, "symmetric_share": 0.98 - 0.2 * part}


def changed(method, matrix, change):
    def values(arm, step):
        found = as_claimed(arm, step)
        if arm.method == method and arm.settings["matrix"] == matrix:
            found = found | change(found)
        return found

    return values


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 14


@pytest.mark.parametrize(
    ("failed", "method", "matrix", "change"),
    [
        ([0], "syre", "unstructured", lambda each: {"gap": 0.06 + 0.1 * each["gap"]}),
        (
            [1],
            "syre",
            "unstructured",
            lambda each: {"symmetric_share": max(0.3, each["symmetric_share"])},
        ),
        (
            [2],
            "syre",
            "unstructured",
            lambda each: {"symmetric_share": 0.95 if each["gap"] < 0.05 else 0.1},
        ),
        ([3], "weight-decay", "unstructured", lambda each: {"symmetric_share": 0.4}),
        ([4], "w-fix", "unstructured", lambda each: {"symmetric_share": 0.4}),
        ([12], "dropout", "structured", lambda each: {"symmetric_share": 0.4}),
        ([12], "dropout", "structured", lambda each: {"gap": 0.2}),
        ([13], "syre", "structured", lambda each: {"gap": each["gap"] ** 0.5}),
    ],
)
def test_it_holds_in_part_if_a_part_is_otherwise(failed, method, matrix, change):
    found = made_verdict(FIGURE, changed(method, matrix, change))
    assert found.outcome == PARTLY
    assert failed_claims(found) == failed


@pytest.mark.parametrize("change", [{"gap": 0.02}, {"symmetric_share": 0.8}])
def test_a_plain_arm_that_does_not_reach_the_minimum_means_nothing(change):
    found = made_verdict(FIGURE, changed("none", "structured", lambda each: change))
    assert found.outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    sentence = FIGURE.sentence(found)
    assert (
        "structured A: weight-decay 0.98 [0.98, 0.98], w-fix 0.98 [0.98, 0.98], dropout" in sentence
    )
    ((unstructured, structured),) = FIGURE.panels(found)
    assert unstructured.title == "Unstructured A"
    assert [line.label for line in structured.lines] == list(STRENGTHS)
    assert structured.lines[0].positions.tolist() == pytest.approx([0.01, 0.26, 0.51], rel=1e-3)
    assert structured.lines[0].mean.tolist() == pytest.approx([0.98, 0.88, 0.78], rel=1e-3)
    FIGURE.draw(found, "caption")
