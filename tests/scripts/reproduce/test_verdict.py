"""Verdicts: requirements first, then the claims."""

import pytest

from plasticity.scripts.report.statistics import estimate
from plasticity.scripts.reproduce.verdict import (
    FAILS,
    HOLDS,
    NOT_JUDGED,
    NOT_SEEN,
    PARTLY,
    Check,
    Verdict,
    shown,
)

YES, NO = Check("yes", True, {}), Check("no", False, {})


@pytest.mark.parametrize(
    ("requirements", "claims", "enough", "outcome"),
    [
        ([YES], [YES, YES], True, HOLDS),
        ([YES], [YES, NO], True, PARTLY),
        ([YES], [NO, NO], True, FAILS),
        ([YES, NO], [YES], True, NOT_SEEN),
        ([NO], [NO], True, NOT_SEEN),
        ([], [YES], True, HOLDS),
        ([YES], [YES], False, NOT_JUDGED),
    ],
)
def test_the_outcome(requirements, claims, enough, outcome):
    verdict = Verdict(requirements, claims, enough)
    assert verdict.outcome == outcome


def test_the_whole_interval_must_be_beyond_the_bound():
    # 1, 2, 3: mean 2, standard error 1/√3, t quantile 4.3027 at 2 degrees: [-0.484, 4.484].
    found = estimate([1.0, 2.0, 3.0])
    assert Check.above("", found, -0.5).passed
    assert not Check.above("", found, -0.4).passed
    assert Check.below("", found, 4.5).passed
    assert not Check.below("", found, 4.4).passed
    figures = Check.above("", found, 1.0).figures
    assert figures == pytest.approx({"mean": 2, "low": -0.484, "high": 4.484, "bound": 1}, abs=1e-3)


def test_no_interval_passes_nothing():
    for found in (None, estimate([5.0]), estimate([5.0, 5.0])):  # the last: others diverged
        assert not Check.above("", found, -1e9).passed
        assert not Check.below("", found, 1e9).passed


def test_means_as_text():
    assert shown(estimate([1.0, 2.0, 3.0])) == "2 [-0.484, 4.48]"
    assert shown(estimate([0.25]), ".1f") == "0.2"
    assert shown(None) == "no value"


def test_a_check_prints_what_it_rests_on():
    text = str(Check("the rank falls", False, {"mean": 1 / 3, "low": None}))
    assert text == "NO   the rank falls (mean 0.3333, low none)"
    assert str(Check("so", True, {"n": 2.0})) == "yes  so (n 2)"
