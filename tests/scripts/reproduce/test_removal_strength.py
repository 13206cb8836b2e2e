"""Figure removal-strength: what it measures, exact resume, and the verdict on made-up results."""

import math

import pytest
from made_figures import failed_claims, made_results, made_verdict, rows_of_stopped_and_whole

from plasticity.mitigations import L2Init, ReDo, Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.reproduce.removal_strength import Removals, Symmetries
from plasticity.scripts.reproduce.verdict import HOLDS, NOT_SEEN, PARTLY

FIGURE = FIGURES["removal-strength"]
SYRE = Syre(strength=0.2, sigma=0.5)


def made(*method, **stream):
    values = {"num_anchors": 256, **stream}
    settings = {f"stream.{name}": value for name, value in values.items()}
    return with_values(FIGURE.config, {**settings, "method": method})


def measured(*method, **stream):
    experiment = Removals([made(*method, **stream)], stacked=False)
    experiment.step()
    return experiment.measure(0)


@pytest.mark.parametrize(("group", "order"), [("reflection", 2), ("permutation", 3), ("cyclic", 4)])
def test_a_group(group, order):
    found = measured(SYRE, group=group, order=order)
    assert found["loss_difference"] == pytest.approx(found["loss_difference_closed"], rel=1e-9)
    assert found["loss_difference_error"] < 1e-9
    assert found["escape_error"] < 1e-9
    # 256 anchors: the mean square of at least 2 directions to within 5 standard errors
    assert found["escape_ratio"] == pytest.approx(1.0, abs=5 * (2 / 2 / 256) ** 0.5)
    rank = {"reflection": 2, "permutation": 8, "cyclic": 12}[group]
    assert found["escape_square_closed"] == pytest.approx((0.2 * 0.5) ** 2 * rank)
    plain = measured(WeightDecay(strength=0.2), group=group, order=order)
    assert plain["loss_difference"] < 1e-12
    assert plain["escape_square"] < 1e-24
    assert plain["escape_ratio"] is plain["escape_error"] is None


@pytest.mark.parametrize("group", ["directions", "swaps"])
def test_many_reflections(group):
    one = measured(SYRE, group=group, order=1, num_anchors=2048)
    # 256 anchors: 2 · strength · sigma · |normal number|, to within 5 standard errors
    mean = 0.2 * math.sqrt(2 / math.pi)
    error = 0.2 * math.sqrt((1 - 2 / math.pi) / 256)
    assert one["smallest"] == pytest.approx(mean, abs=5 * error)
    assert one["smallest_closed"] == pytest.approx(mean, rel=1e-4)
    many = measured(SYRE, group=group, order=120, num_anchors=2048)
    assert many["smallest"] == pytest.approx(many["smallest_closed"], rel=0.3)
    assert many["log10_smallest"] == math.log10(many["smallest"])
    assert many["loss_difference_error"] < 1e-7
    assert many["loss_difference"] > 10 * many["smallest"]
    plain = measured(WeightDecay(strength=0.2), group=group, order=6)
    assert plain["loss_difference"] < 1e-12
    assert plain["log10_smallest"] is None


def test_wrong_settings_are_refused():
    for settings, message in (
        ({"group": "cyclik"}, "cyclic"),
        ({"group": "cyclic", "order": 3}, "order must be even"),
        ({"group": "swaps", "order": 5}, "order must be a number of pairs"),
        ({"group": "permutation", "order": 1}, "order must be at least 2"),
        ({"num_anchors": 0}, "num_anchors"),
    ):
        with pytest.raises(ValueError, match=message):
            Symmetries(**settings)
    for method in (ReDo(), L2Init(), Syre(anisotropy=0.1)):
        with pytest.raises(ValueError, match="closed forms of weight decay and syre"):
            made(method)


def test_a_run_that_is_continued_has_the_same_rows(tmp_path):
    config = with_values(made(SYRE, num_anchors=8), {"stream.num_steps": 3})
    parts, whole = rows_of_stopped_and_whole(tmp_path, config, 2)
    assert parts == whole
    assert whole.count(b"\n") == 3


# ---- the verdict ------------------------------------------------------------------------------------


def as_claimed(arm, step):
    """Values as the theorems have them."""
    order = arm.settings["order"]
    if arm.method == "weight-decay":
        return {"loss_difference": 1e-14}
    if arm.name in ("directions", "swaps"):
        # A ten-thousandth from seed to seed is no change of a logarithm.
        small = {"smallest": 0.1 / order, "smallest_closed": 0.1 / order}
        return small | {"log10_smallest": math.log10(0.1 / order), "loss_difference_error": 1e-11}
    square = {"escape_square": 1.01 * order, "escape_square_closed": order, "escape_ratio": 1.01}
    closed = {"loss_difference_closed": 1.0, "loss_difference": 1.0}
    return square | closed | {"loss_difference_error": 1e-11, "escape_error": 1e-12}


def changed(name, **values):
    def value(arm, step):
        found = as_claimed(arm, step)
        if arm.name == name and arm.settings["order"] > 1:
            found |= {
                key: change(arm.settings["order"]) for key, change in values.items() if key in found
            }
        return found

    return value


def test_it_holds_if_all_is_as_claimed():
    found = made_verdict(FIGURE, as_claimed)
    assert found.outcome == HOLDS
    assert len(found.claims) == 12


@pytest.mark.parametrize(
    ("failed", "line", "values"),
    [
        ([0], "cyclic", {"loss_difference_error": lambda n: 1e-3 if n == 4 else 0.0}),
        ([0], "swaps", {"loss_difference_error": lambda n: 1e-3}),
        ([1], "permutation", {"escape_error": lambda n: 1e-3}),
        ([2], "reflection", {"escape_ratio": lambda n: 0.8}),
        ([3], "reflection", {"escape_ratio": lambda n: 1.2}),
        ([6, 7], "cyclic", {"escape_ratio": lambda n: None}),
        ([8], "directions", {"log10_smallest": lambda n: -1 - 1.2 * math.log10(n)}),
        ([9], "directions", {"log10_smallest": lambda n: -1 - 0.8 * math.log10(n)}),
        ([11], "swaps", {"log10_smallest": lambda n: -1.0}),
    ],
)
def test_it_holds_in_part_if_a_part_is_otherwise(failed, line, values):
    found = made_verdict(FIGURE, changed(line, **values))
    assert found.outcome == PARTLY
    assert failed_claims(found) == failed


def test_losses_without_the_symmetry_mean_nothing():
    found = made_verdict(FIGURE, changed("weight-decay", loss_difference=lambda n: 0.1))
    assert found.outcome == NOT_SEEN


def test_the_sentence_and_the_panels():
    found = made_results(FIGURE, as_claimed)
    sentence = FIGURE.sentence(found)
    assert "of a loss difference 1e-11 [1e-11, 1e-11], of an escape gradient 1e-12" in sentence
    assert "to the power -1.00 (directions) and -1.00 (swaps)" in sentence
    ((differences, squares, smallest),) = FIGURE.panels(found)
    labels = [line.label for line in differences.lines]
    assert labels == [
        "closed form",
        "reflection",
        "closed form",
        "permutation",
        "closed form",
        "cyclic",
    ]
    assert squares.lines[5].mean.tolist() == pytest.approx([2.02, 4.04, 8.08, 16.16], rel=1e-3)
    assert smallest.lines[1].positions.tolist() == [1, 6, 28, 120, 496, 2016]
    FIGURE.draw(found, "caption")
