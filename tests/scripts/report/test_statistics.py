"""Intervals against closed forms, scipy and resamples counted by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.report.statistics import Estimate, bands, estimate, paired_estimate

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
samples = st.lists(numbers, min_size=2, max_size=10)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert estimate([0.25]) == Estimate(0.25, 1, None, None)
    assert estimate([None, 0.25]) == Estimate(0.25, 1, None, None)
    assert estimate([]) is None
    assert estimate([None, None]) is None


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_t_of_two_and_three_seeds_by_closed_forms(confidence):
    # With one degree of freedom t is Cauchy: its quantile is tan(pi * confidence / 2). Of 0 and 2:
    # mean 1, deviation sqrt(2), so that the half-width is t * sqrt(2) / sqrt(2) = t.
    t = math.tan(math.pi * confidence / 2)
    assert estimate([0.0, 2.0], confidence).t == pytest.approx((1 - t, 1 + t), rel=1e-9)
    # With two: confidence * sqrt(2 / (1 - confidence^2)). Of 0, 3, 9: mean 4, deviation sqrt(21).
    reach = confidence * math.sqrt(2 / (1 - confidence**2)) * math.sqrt(21 / 3)
    assert estimate([0.0, 3.0, 9.0], confidence).t == pytest.approx((4 - reach, 4 + reach))


def test_t_of_three_seeds_from_a_printed_table():
    # t(2; 0.975) = 4.303 (any table of Student's t); of -1, 0, 1: deviation 1, half-width 4.303 / sqrt(3)
    assert estimate([-1.0, 0.0, 1.0]).t == pytest.approx((-2.484, 2.484), abs=1e-3)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_agrees_with_scipy(count, confidence):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    theirs = scipy.stats.t.interval(
        confidence, count - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    np.testing.assert_allclose(estimate(values.tolist(), confidence).t, theirs)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_coverage_of_the_t_interval_is_its_confidence(count):
    # 20 000 samples of a standard normal: the share is 95 % +- 0.15 % (one sigma).
    values = np.random.default_rng(1).normal(size=(count, 20_000))
    _, low, high = bands(values, 0.95)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize(("count", "share"), [(3, 0.74), (5, 0.84), (10, 0.90)])
def test_the_bootstrap_has_the_lower_coverage_that_reports_state(count, share):
    # 1000 samples: +- 1.4 % (one sigma) at 74 %
    generator = np.random.default_rng(2)
    ends = np.array([estimate(generator.normal(size=count)).bootstrap for _ in range(1000)])
    assert np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0)) == pytest.approx(share, abs=0.045)


def test_three_seeds_counted_by_hand():
    # 27 resamples of 0, 3, 9. From below: mean 0 (0,0,0) once, mean 1 (0,0,3) three times, …
    # From above: mean 9 once, mean 7 (9,9,3) three times.
    # 95 %: a tail is 0.025 * 27 = 0.675 resamples: the first from either side, the range.
    found = estimate([0.0, 3.0, 9.0])
    assert (found.mean, found.count, found.bootstrap) == (4.0, 3, (0.0, 9.0))
    # 90 %: a tail is 1.35 resamples: the second distinct mean from either side.
    assert estimate([0.0, 3.0, 9.0], 0.9).bootstrap == (1.0, 7.0)


def test_a_mean_exactly_at_the_tail_is_an_end():
    # Of 0, 1: means 0, 0.5, 1 with probabilities 1/4, 1/2, 1/4; at 50 % a tail is 1/4.
    assert estimate([0.0, 1.0], 0.5).bootstrap == (0.0, 1.0)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_few_seeds_give_the_quantiles_of_all_resamples(count):
    values = np.random.default_rng(count).normal(size=count)
    means = np.sort([np.mean(chosen) for chosen in itertools.product(values, repeat=count)])
    tail = math.ceil(0.025 * len(means)) - 1  # the first mean with 2.5 % at or beyond it
    found = estimate(values.tolist())
    np.testing.assert_allclose(found.bootstrap, [means[tail], means[-1 - tail]])


@pytest.mark.parametrize("count", [7, 12, 30])
def test_many_seeds_agree_with_scipy(count):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    )
    low, high = estimate(values.tolist()).bootstrap
    # Both sample: an end is off by a few per cent of the interval's width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    np.testing.assert_allclose(low, theirs.confidence_interval.low, atol=0.05 * width)
    np.testing.assert_allclose(high, theirs.confidence_interval.high, atol=0.05 * width)


@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_equal_values_have_an_interval_of_zero_width(count):
    assert estimate([0.1] * count) == Estimate(0.1, count, (0.1, 0.1), (0.1, 0.1))


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert estimate(shuffled) == estimate(values)


@given(samples, st.floats(0.5, 0.99))
def test_intervals_widen_with_confidence_and_the_bootstrap_stays_within_the_values(
    values, confidence
):
    narrow, wide = estimate(values, confidence), estimate(values, 0.99)
    for inner, outer in ((narrow.t, wide.t), (narrow.bootstrap, wide.bootstrap)):
        assert outer[0] <= inner[0] <= narrow.mean <= inner[1] <= outer[1]
    assert min(values) <= wide.bootstrap[0]
    assert wide.bootstrap[1] <= max(values)


@given(st.lists(numbers, min_size=2, max_size=7), st.floats(-100, 100), st.floats(0.1, 10))
def test_shifting_and_scaling_the_values_shifts_and_scales_the_interval(values, shift, factor):
    found = estimate(values)
    moved = estimate([factor * value + shift for value in values])
    turned = estimate([-value for value in values])
    ends = np.array([found.mean, *found.t, *found.bootstrap])
    shifted = [moved.mean, *moved.t, *moved.bootstrap]
    np.testing.assert_allclose(shifted, factor * ends + shift, rtol=1e-9, atol=1e-6)
    back = [turned.mean, *turned.t[::-1], *turned.bootstrap[::-1]]
    np.testing.assert_allclose(np.negative(back), ends, rtol=1e-9, atol=1e-9)


def test_estimates_are_deterministic():
    values = np.random.default_rng(0).normal(size=20).tolist()
    assert estimate(values) == estimate(values)


def test_bands_are_estimates_of_each_column():
    values = np.random.default_rng(3).normal(size=(4, 5))
    values[0, 1] = np.nan  # three seeds left
    values[1:, 2] = np.nan  # one
    values[:, 3] = np.nan  # none
    mean, low, high = bands(values, 0.9)
    for column in (0, 1, 4):
        found = estimate([v for v in values[:, column] if np.isfinite(v)], 0.9)
        assert (mean[column], low[column], high[column]) == (found.mean, *found.t)
    assert mean[2] == values[0, 2]
    assert np.isnan([low[2], high[2], mean[3], low[3], high[3]]).all()


def test_paired_differences_computed_by_hand():
    ours = {0: 0.9, 1: 0.7, 2: 0.5, 3: None}
    theirs = {0: 0.8, 1: 0.5, 2: 0.2, 4: 0.1, 3: 0.3}
    # 0.1, 0.2, 0.3 of seeds 0, 1, 2; seeds 3 and 4 have only one side. The bootstrap gives the range.
    found = paired_estimate(ours, theirs)
    np.testing.assert_allclose([found.mean, *found.bootstrap], [0.2, 0.1, 0.3])
    theirs_t = scipy.stats.ttest_rel([0.9, 0.7, 0.5], [0.8, 0.5, 0.2]).confidence_interval()
    np.testing.assert_allclose(found.t, theirs_t)
    assert found.count == 3


def test_effects_of_the_seed_on_both_cancel_out():
    seeds = np.random.default_rng(0).normal(scale=10, size=5)
    ours = {i: float(value) + 1.0 for i, value in enumerate(seeds)}
    theirs = {i: float(value) for i, value in enumerate(seeds)}
    found = paired_estimate(ours, theirs)
    np.testing.assert_allclose(found.t, [1.0, 1.0])


def test_without_a_common_seed_there_is_no_estimate():
    assert paired_estimate({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be"):
        estimate([1.0, 2.0], confidence)
    with pytest.raises(ValueError, match="confidence must be"):
        estimate([], confidence)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="confidence must be a number, not '95'"):
        estimate([1.0], "95")
    with pytest.raises(ValueError, match="must be finite or None"):
        estimate([1.0, math.nan])
