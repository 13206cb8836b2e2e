"""Figure reparametrized-regression: its minima in closed form, exact resume, and the verdict."""

import pytest
import torch
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import Syre, WeightDecay, WFix
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.reparametrized_regression import RegressionData, Regressions
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["reparametrized-regression"]


def made(*method, **stream):
    values = {"input_dim": 6, "batch_size": 4, "num_steps": 12, **stream}
    settings = {f"stream.{name}": value for name, value in values.items()}
    return with_values(
        FIGURE.config, {**settings, "method": method, "tracking.measure_every": 4, "seed": 3}
    )


def started(*method, **stream):
    return Regressions([made(*method, **stream)], stacked=False)


def set_weights(experiment, u, w):
    with torch.no_grad():
        experiment.network.u.weight.copy_(torch.tensor(u)[None])
        experiment.network.w.weight.copy_(torch.tensor(w)[None])


def test_the_loss_is_half_the_error_and_the_noise():
    """On 50,000 examples, half of the squared distance and of the noise's variance, within 3 %."""
    experiment = started(batch_size=50_000, label_noise=0.5)
    expected = (experiment.measure(0)["error"] + 0.25) / 2
    assert experiment.loss().item() == pytest.approx(expected, rel=0.03)
    assert experiment.teacher.norm().item() == pytest.approx(1.0)


def test_decay_is_a_lasso():
    """Without noise, |u_i w_i| becomes |teacher_i| less the strength, and never less than 0."""
    experiment = started(WeightDecay(strength=0.3), label_noise=0.0, batch_size=64)
    for _ in range(600):
        experiment.step()
        experiment.steps += 1
    teacher = experiment.teacher
    expected = teacher.sign() * (teacher.abs() - 0.3).clamp(min=0)
    assert 0 < (expected == 0).sum() < 6
    torch.testing.assert_close(experiment.network.weights().detach(), expected, atol=0.02, rtol=0)


def test_symmetric_states_are_not_left_but_for_syre():
    for method in (WeightDecay(strength=0.1), Syre(strength=0.1, sigma=1.0)):
        experiment = started(method)
        set_weights(experiment, [0.0] * 6, [0.0] * 6)
        assert experiment.measure(0)["dead_share"] == 1.0
        experiment.step()
        expected = 1.0 if isinstance(method, WeightDecay) else 0.0
        assert experiment.measure(0)["dead_share"] == expected


def test_what_is_dead_and_what_is_off():
    experiment = started()
    scale, (first, *rest) = experiment.scale, experiment.teacher.tolist()
    set_weights(experiment, [0.005 * scale, 0.0, *[1.0] * 4], [0.005 * scale, 1.0, *rest[1:]])
    found = experiment.measure(0)
    assert found["dead_share"] == found["dead_share_of_free"] == pytest.approx(1 / 6)
    assert found["off_share"] == pytest.approx(2 / 6)
    product = (0.005 * scale) ** 2
    assert found["error"] == pytest.approx((product - first) ** 2 + rest[0] ** 2, rel=1e-5)


def test_coordinates_that_w_fix_holds_are_not_free():
    experiment = started(WFix(share=0.3), WeightDecay(strength=0.1), input_dim=200)
    held = [getattr(experiment.network, each).weight_is_fixed[0] for each in "uw"]
    free = ~(held[0] | held[1])
    assert 0 < free.sum() < 200
    set_weights(experiment, torch.where(free, 0.0, 1.0).tolist(), [0.0] * 200)
    assert experiment.measure(0)["dead_share_of_free"] == 1.0
    assert experiment.measure(0)["dead_share"] == pytest.approx(free.float().mean().item())
    all_held = started(WFix(share=1.0))
    assert all_held.measure(0)["dead_share_of_free"] is None


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="input_dim must be at least 1"):
        RegressionData(input_dim=0)
    with pytest.raises(ValueError, match="label_noise"):
        RegressionData(label_noise=-1.0)


@pytest.mark.parametrize("method", [(), (WFix(share=0.5), WeightDecay()), (Syre(sigma=0.5),)])
def test_a_run_that_was_stopped_continues_exactly(tmp_path, method):
    parts, whole = rows_of_stopped_and_whole(tmp_path, made(*method), 6)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------

AS_CLAIMED = {
    "none": {"error": 0.001, "dead_share": 0.0, "off_share": 0.0},
    "weight decay": {"error": 0.7, "dead_share": 0.7, "off_share": 0.75},
    "W-fix": {"error": 0.7, "dead_share": 0.4, "dead_share_of_free": 0.7, "off_share": 0.6},
    "syre": {"error": 0.6, "dead_share": 0.0, "off_share": 0.2},
}


def values(line=None, **changes):
    return lambda arm, step: AS_CLAIMED[arm.name] | (changes if arm.name == line else {})


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, values())
    assert found.outcome == HOLDS
    assert len(found.claims) == 5


@pytest.mark.parametrize(
    ("failed", "line", "changes"),
    [
        ([0], "weight decay", {"dead_share": 0.4}),
        ([1], "W-fix", {"dead_share_of_free": 0.4}),
        ([2], "syre", {"dead_share": 0.1}),
        ([4], "syre", {"off_share": 0.65}),
        ([3, 4], "syre", {"off_share": 0.8}),
    ],
)
def test_it_holds_in_part_if_a_part_is_otherwise(failed, line, changes):
    found = made_verdict(FIGURE, values(line, **changes))
    assert found.outcome == PARTLY
    assert failed_claims(found) == failed


@pytest.mark.parametrize("changes", [{"error": 0.1}, {"dead_share": 0.1}])
def test_a_plain_arm_that_has_not_learnt_means_nothing(changes):
    assert made_verdict(FIGURE, values("none", **changes)).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, values(), steps=(200, 400))
    sentence = FIGURE.sentence(found)
    assert "weight decay: 0.70 [0.70, 0.70] dead, 0.75 [0.75, 0.75] off, error 0.70" in sentence
    assert "W-fix: 0.70 [0.70, 0.70] of the free ones dead" in sentence  # which is what is judged
    ((dead, off, error),) = FIGURE.panels(found)
    assert [line.label for line in off.lines] == ["none", "weight decay", "W-fix", "syre"]
    assert dead.lines[1].positions.tolist() == [200, 400]
    assert error.lines[3].mean.tolist() == pytest.approx([0.6, 0.6], rel=1e-3)
    FIGURE.draw(found, "caption")
