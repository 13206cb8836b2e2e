"""Statistics over benchmarks and methods, against scipy, rliable where it is installed, and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from plasticity.scripts.report.aggregates import (
    holm,
    interquartile_mean,
    least_p_value,
    performance_profile,
    probability_of_improvement,
    seeds_needed,
    sign_flip_test,
    stratified_bootstrap,
    what_seeds_can_show,
)

NUMBERS = st.floats(-100, 100).map(lambda value: round(value, 3))
SCORES = st.tuples(st.integers(1, 7), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=NUMBERS)
)


@given(SCORES)
@settings(deadline=None)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    expected = stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(interquartile_mean(scores), expected, rtol=1e-12, atol=1e-12)


def test_aggregates_by_hand():
    scores = np.array([[0.0, 0.9], [0.4, 1.5]])
    assert interquartile_mean(scores) == pytest.approx((0.4 + 0.9) / 2)
    profile = performance_profile(scores, np.array([-1.0, 0.0, 0.4, 2.0]))
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.0]  # strictly above
    stacked = np.stack([scores, scores + 1])
    assert interquartile_mean(stacked).tolist() == pytest.approx([0.65, 1.65])
    assert performance_profile(stacked, np.array([0.95])).tolist() == [[0.25], [1.0]]


@given(arrays(np.float64, (4, 3), elements=NUMBERS), arrays(np.float64, (6, 3), elements=NUMBERS))
@settings(deadline=None)
def test_the_probability_of_improvement_is_that_of_mann_and_whitney(scores, others):
    each = [
        stats.mannwhitneyu(scores[:, column], others[:, column], method="asymptotic").statistic / 24
        for column in range(3)
    ]
    found = probability_of_improvement(scores, others)
    assert found == pytest.approx(np.mean(each))
    assert found + probability_of_improvement(others, scores) == pytest.approx(1.0)


def test_bootstraps_draw_the_seeds_of_each_benchmark_among_themselves():
    # a benchmark without spread stays as it is, and the other gives the mean its spread
    scores = np.array([[5.0, 0.0], [5.0, 1.0], [5.0, 2.0], [5.0, 3.0]])
    low, high = stratified_bootstrap(lambda x: x.mean(axis=1), scores, draws=20_000)
    assert low[0] == high[0] == 5.0
    # all 4⁴ resamples of 0, 1, 2, 3
    means = np.sort([np.mean(each) for each in itertools.product(range(4), repeat=4)])
    assert low[1] == np.quantile(means, 0.025, method="inverted_cdf")
    assert high[1] == np.quantile(means, 0.975, method="inverted_cdf")
    # the columns are drawn apart: the sum varies less than if the rows stayed together
    both = np.column_stack([np.arange(10.0), np.arange(10.0)])
    low, high = stratified_bootstrap(lambda x: x.mean(axis=(1, 2)), both, draws=20_000)
    # standard error of a mean of 10: 2.872 / sqrt(10) = 0.908; of two such means apart: 0.642
    assert (high - low) / 2 == pytest.approx(1.96 * 0.642, rel=0.03)


def test_bootstraps_of_two_methods_draw_each_by_itself():
    first, second = np.arange(8.0)[:, None], np.arange(5.0)[:, None]
    low, high = stratified_bootstrap(probability_of_improvement, first, second, draws=20_000)
    value = probability_of_improvement(first, second)
    assert 0.3 < low < value < high < 1.0
    again = stratified_bootstrap(probability_of_improvement, first, second, draws=20_000)
    assert again == (low, high)


def test_aggregates_are_those_of_rliable():
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    generator = np.random.default_rng(3)
    scores, others = generator.normal(0.5, 0.5, (10, 6)), generator.normal(0.3, 0.4, (8, 6))
    assert interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    expected = metrics.probability_of_improvement(scores, others)
    assert probability_of_improvement(scores, others) == pytest.approx(expected)
    thresholds = np.linspace(-1, 2, 31)
    profile = [library.run_score_deviation(scores, each) for each in thresholds]
    np.testing.assert_allclose(performance_profile(scores, thresholds), profile)
    _, interval = library.get_interval_estimates(
        {"ours": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=5_000
    )
    found = stratified_bootstrap(interquartile_mean, scores)
    # two bootstraps of 5000: their ends agree to a few per cent of the interval's width
    width = found[1] - found[0]
    np.testing.assert_allclose(np.ravel(found), interval["ours"].ravel(), atol=0.1 * width)


@given(st.lists(NUMBERS, min_size=2, max_size=9))
@settings(deadline=None, max_examples=50)
def test_the_sign_flip_test_is_scipys_permutation_test(differences):
    expected = stats.permutation_test(
        (np.array(differences),),
        lambda x, axis: np.abs(x.mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected)
    assert sign_flip_test(differences) >= least_p_value(len(differences))


def test_the_sign_flip_test_by_hand():
    assert sign_flip_test([1.0, 2.0, 3.0]) == 0.25  # +++ and ---, of 8
    assert sign_flip_test([1.0, 2.0, -3.0]) == 1.0
    # sums of 0.5 or more: 0.7, and 0.5 twice, each with its negative, of 16
    assert sign_flip_test([0.1, 0.2, 0.3, -0.1]) == 6 / 16
    many = np.random.default_rng(0).normal(0.5, 1.0, 30)
    assert sign_flip_test(many) == pytest.approx(stats.ttest_1samp(many, 0.0).pvalue, abs=0.01)
    assert sign_flip_test(np.ones(30)) == least_p_value(30) == 2 / 2**30


@pytest.mark.parametrize(
    ("count", "tolerance"), [(20, 1e-12), (33, 1e-12), (36, 1e-12), (40, 0.015)]
)
def test_sign_flips_of_ones_are_tosses_of_a_coin(count, tolerance):
    heads = 2 * count // 3  # at least as many, or as few
    expected = 2 * stats.binom.sf(heads - 1, count, 0.5)
    differences = [1.0] * heads + [-1.0] * (count - heads)
    assert sign_flip_test(differences) == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_sign_flips_are_right_as_often_as_they_say():
    generator = np.random.default_rng(1)
    rejected = [sign_flip_test(generator.normal(size=8)) <= 0.05 for _ in range(800)]
    # exact level of 8 seeds at 0.05: 12 / 256 = 0.047, with a standard error of 0.0075
    assert np.mean(rejected) == pytest.approx(0.047, abs=0.025)


def test_holm_by_hand():
    # 3 x 0.01; 2 x 0.03; then 0.04, which may not be below the one before
    found = holm({"a": 0.03, "b": 0.01, "c": 0.04})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_keeps_the_order_and_is_between_the_p_value_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for name, each in p_values.items():
        assert each <= adjusted[name] <= min(1.0, len(p_values) * each)
    ordered = sorted(p_values, key=p_values.__getitem__)
    assert all(adjusted[first] <= adjusted[second] for first, second in itertools.pairwise(ordered))


def test_what_seeds_can_show():
    assert "One seed shows no difference" in what_seeds_can_show(1, 3)
    few = what_seeds_can_show(3, 2)
    assert "3 seeds cannot show a difference at the level 0.05" in few
    assert "among 2 comparisons, is 0.5" in few
    assert "; 7 seeds could show one." in few  # 2 x 2 / 2⁷ = 0.031; with 6, 0.0625
    assert "10 seeds can show differences" in what_seeds_can_show(10, 4)
    for comparisons in (1, 2, 5, 30):
        needed = seeds_needed(comparisons)
        assert comparisons * least_p_value(needed) < 0.05 <= comparisons * least_p_value(needed - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean(np.ones(3)), r"shape \(seeds, benchmarks\).*\(3,\)"),
        (lambda: interquartile_mean(np.ones((0, 3))), "at least one of each"),
        (lambda: probability_of_improvement(np.ones((2, 2)), np.ones((2, 3))), "2 and 3"),
        (
            lambda: stratified_bootstrap(interquartile_mean, np.ones((2, 2)), confidence=1.0),
            "confid",
        ),
        (lambda: sign_flip_test([]), "at least one difference"),
        (lambda: holm({"a": 1.2}), "p-value of a must be from 0 to 1, not 1.2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
