"""Intervals against scipy and against resamples that were counted by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from plasticity.scripts.statistics import Estimate, bands, estimate, paired_estimate

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
samples = st.lists(numbers, min_size=2, max_size=10)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert estimate([0.25]) == Estimate(0.25, None, None, 1)
    assert estimate([None, 0.25]) == Estimate(0.25, None, None, 1)
    assert estimate([]) is None
    assert estimate([None, None]) is None


def test_three_seeds_counted_by_hand():
    # 27 resamples of 0, 3, 9. From below: mean 0 (0,0,0) once, mean 1 (0,0,3) three times, …
    # From above: mean 9 once, mean 7 (9,9,3) three times.
    # 95 %: a tail is 0.025 * 27 = 0.675 resamples: the first from either side, the range.
    assert estimate([0.0, 3.0, 9.0]) == Estimate(4.0, 0.0, 9.0, 3)
    # 90 %: a tail is 1.35 resamples: the second distinct mean from either side.
    assert estimate([0.0, 3.0, 9.0], 0.9) == Estimate(4.0, 1.0, 7.0, 3)


def test_a_tail_that_is_met_exactly_belongs_to_both_ends():
    # Of 0, 1: means 0, 0.5, 1 with chances 1/4, 1/2, 1/4; at 50 % a tail is 1/4.
    assert estimate([0.0, 1.0], 0.5) == Estimate(0.5, 0.0, 1.0, 2)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_few_seeds_are_the_quantiles_of_every_resample(count):
    values = np.random.default_rng(count).normal(size=count)
    means = np.sort([np.mean(chosen) for chosen in itertools.product(values, repeat=count)])
    tail = math.ceil(0.025 * len(means)) - 1  # the first mean with 2.5 % at or beyond it
    found = estimate(values.tolist())
    assert found is not None
    np.testing.assert_allclose([found.low, found.high], [means[tail], means[-1 - tail]])


@pytest.mark.parametrize("count", [7, 12, 30])
def test_many_seeds_agree_with_scipy(count):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    )
    found = estimate(values.tolist())
    assert found is not None
    # Both draw: an end is off by a few per cent of the interval's width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    np.testing.assert_allclose(found.low, theirs.confidence_interval.low, atol=0.05 * width)
    np.testing.assert_allclose(found.high, theirs.confidence_interval.high, atol=0.05 * width)


@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_equal_values_have_an_interval_of_no_width(count):
    assert estimate([0.1] * count) == Estimate(0.1, 0.1, 0.1, count)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert estimate(shuffled) == estimate(values)


@given(samples, st.floats(0.5, 0.99))
def test_ends_lie_within_the_values_and_widen_with_confidence(values, confidence):
    narrow, wide = estimate(values, confidence), estimate(values, 0.99)
    assert min(values) <= wide.low <= narrow.low <= narrow.high <= wide.high <= max(values)


@given(st.lists(numbers, min_size=2, max_size=7), st.floats(-100, 100), st.floats(0.1, 10))
def test_shifting_and_scaling_the_values_does_so_to_the_interval(values, shift, factor):
    found = estimate(values)
    moved = estimate([factor * value + shift for value in values])
    turned = estimate([-value for value in values])
    ends = np.array([found.mean, found.low, found.high])
    np.testing.assert_allclose(
        [moved.mean, moved.low, moved.high], factor * ends + shift, rtol=1e-9, atol=1e-6
    )
    np.testing.assert_allclose([-turned.mean, -turned.high, -turned.low], ends, atol=1e-9)


def test_the_same_values_give_the_same_interval_again():
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
        assert (mean[column], low[column], high[column]) == (found.mean, found.low, found.high)
    assert mean[2] == values[0, 2]
    assert np.isnan([low[2], high[2], mean[3], low[3], high[3]]).all()


def test_paired_differences_by_hand():
    ours = {0: 0.9, 1: 0.7, 2: 0.5, 3: None}
    theirs = {0: 0.8, 1: 0.5, 2: 0.2, 4: 0.1, 3: 0.3}
    # 0.1, 0.2, 0.3 of seeds 0, 1, 2; seeds 3 and 4 have only one side. The range is the interval.
    found = paired_estimate(ours, theirs)
    assert found is not None
    np.testing.assert_allclose([found.mean, found.low, found.high], [0.2, 0.1, 0.3])
    assert found.count == 3


def test_what_a_seed_does_to_both_cancels_out():
    seeds = np.random.default_rng(0).normal(scale=10, size=5)
    ours = {i: float(value) + 1.0 for i, value in enumerate(seeds)}
    theirs = {i: float(value) for i, value in enumerate(seeds)}
    found = paired_estimate(ours, theirs)
    assert found is not None
    np.testing.assert_allclose([found.low, found.high], [1.0, 1.0])


def test_no_common_seed_gives_nothing():
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
