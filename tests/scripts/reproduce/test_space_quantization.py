"""Figure space-quantization: distances by hand, exponents of made-up powers, exact resume, the verdict."""

import pytest
import torch
from made_figures import rows_of_stopped_and_whole

from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.space_quantization import (
    DECAY,
    STRENGTH,
    STRENGTHS,
    WIDTH,
    FixedData,
    FixedStudent,
    distances_between,
    slopes,
    width_ratio,
)
from plasticity.scripts.reproduce.verdict import FAILS, HOLDS, NOT_SEEN, PARTLY, Verdict

FIGURE = FIGURES["space-quantization"]
TINY = {
    "stream.num_steps": 6,
    "stream.num_train": 20,
    "stream.teacher_width": 3,
    "tracking.measure_every": 2,
    "agent.width": 5,
}


def made(*method, **changes):
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return with_values(FIGURE.config, values | {"method": tuple(method)})


# ---- distances --------------------------------------------------------------------------------------


def test_distances_by_hand():
    # Two neurons at zero (under 1), two identical ones at 3 (closer than 0.1), one at 7 on the other axis.
    vectors = torch.tensor([[0.0, 0.0], [0.0, 0.5], [3.0, 0.0], [3.0, 0.02], [3.0, 7.0]])
    different, identical = distances_between(vectors, 10.0)
    assert identical.tolist() == pytest.approx([0.02], abs=1e-6)
    assert different.tolist() == pytest.approx([6.98, 7.0], abs=1e-4)


def test_a_row_by_hand():
    experiment = FixedStudent([made()], stacked=False)
    with torch.no_grad():
        experiment.incoming[:3] = 1.0
        experiment.outgoing[:, :3] = 2.0
        experiment.incoming[1] += 0.5  # all four weights
        experiment.incoming[3:] = 0.0
        experiment.outgoing[:, 3:] = 0.0
    found = experiment.measure(0)
    # Of the three pairs of neurons that are not at zero, one is identical.
    assert found["smallest_distance"] == pytest.approx(1.0)
    assert found["identical_share"] == pytest.approx(1 / 3)
    assert found["largest_identical"] == 0.0
    assert found["zero_neurons"] == 2
    assert found["weight_norm"] == pytest.approx((8 + 8 + 9 + 4) ** 0.5)
    assert found["error"] == pytest.approx(experiment.loss().item())


def test_students_that_are_all_zero_have_no_distance():
    experiment = FixedStudent([made()], stacked=False)
    with torch.no_grad():
        experiment.incoming.zero_()
        experiment.outgoing.zero_()
    found = experiment.measure(0)
    assert found["smallest_distance"] is found["identical_share"] is None
    assert found["error"] == pytest.approx(1.0, rel=1e-5)  # the labels' mean square


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="teacher_width must be at least 1"):
        FixedData(teacher_width=0)


# ---- resume -----------------------------------------------------------------------------------------


def test_a_student_that_was_stopped_continues_exactly(tmp_path):
    config = made(WeightDecay(strength=1e-2), seed=3)
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 3)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------


def results(distance, error=0.01):
    arms = []
    for arm in FIGURE.arms("small"):
        runs = []
        for seed in range(3):
            found = distance(arm.settings["width"], arm.settings.get(DECAY))
            row = {
                "smallest_distance": found and found * (1 + 0.001 * seed * arm.settings["width"]),
                "zero_neurons": 20.0,
                "error": error + 0.0001 * seed,
                "step": 10_000.0,
                "diverged": 0.0,
            }
            config = {"benchmark": "space-quantization", "method": {}, "seed": seed}
            runs.append(Run(None, config, (row,), half_written=False))
        arms.append((arm, runs))
    return Results(arms)


def as_conjectured(width, strength):
    return 10 / width if strength is None else 5 * strength**0.5


def verdict(distance, **settings):
    found = results(distance, **settings)
    return Verdict(FIGURE.requirements(found), FIGURE.claims(found))


def test_exponents_and_ratios_of_made_up_powers():
    found = results(as_conjectured)
    assert slopes(found, STRENGTHS["small"]) == pytest.approx([0.5] * 3)
    # From a width of 16 to 128 a factor of 1/8, and the made-up noise of a few percent.
    assert width_ratio(found, "none").mean == pytest.approx(-3.0, abs=0.3)
    assert width_ratio(found, "weight-decay").mean == pytest.approx(0.0, abs=0.3)


def test_a_seed_without_a_distance_has_no_exponent():
    strongest = STRENGTHS["small"][-1]
    found = results(lambda w, s: None if s == strongest else as_conjectured(w, s))
    assert slopes(found, STRENGTHS["small"]) == [None, None, None]


def test_it_holds_if_it_scales_as_conjectured():
    # The noise of made-up results is common to all strengths: the exponents differ by rounding only.
    assert verdict(as_conjectured).outcome == HOLDS


@pytest.mark.parametrize(
    ("failed", "distance"),
    [
        ([1], lambda width, strength: (strength or 1.0) ** 0.1),
        ([2], lambda width, strength: (strength or 1.0) ** 1.0),
        ([3], lambda width, strength: (strength or 1.0) ** 0.5 / width),
    ],
)
def test_it_holds_partly_if_a_part_is_otherwise(failed, distance):
    found = verdict(distance)
    assert found.outcome == PARTLY
    assert [index for index, each in enumerate(found.claims) if not each.passed] == failed


def test_it_fails_if_the_distance_is_undefined_and_is_not_seen_if_nothing_is_learnt():
    assert verdict(lambda width, strength: None).outcome == FAILS
    assert verdict(as_conjectured, error=0.06).outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = results(as_conjectured)
    said = FIGURE.sentence(found)
    assert "exponent 0.50 [0.50, 0.50]" in said
    assert f"with decay {STRENGTH:g}" in said
    ((over_decay, over_width, at_zero),) = FIGURE.panels(found)
    assert over_decay.lines[0].positions.tolist() == list(STRENGTHS["small"])
    assert [line.label for line in over_width.lines] == ["none", "weight-decay"]
    assert WIDTH in over_width.lines[0].positions.tolist()
    assert at_zero.lines[0].mean.tolist() == [20.0] * 4
    FIGURE.draw(found, "caption")
