"""Statistics over several benchmarks, and over many methods that are compared with one: pure functions.

Scores of a method have the shape (seeds, benchmarks). Bootstraps are stratified: the seeds of each benchmark
are drawn anew among themselves (Agarwal et al., Deep RL at the Edge of the Statistical Precipice, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from plasticity.scripts.report.statistics import Array, require_confidence

NUM_DRAWS = 5_000
"""Number of bootstrap resamples, and of sign patterns where there are too many to count."""

LEVEL = 0.05
"""Level of significance, after Holm's correction."""

MAX_EXACT_SIGNS = 36
"""Largest number of seeds for which all patterns of signs are counted (from 2 x 262,144 sums)."""

Aggregate = Callable[[Array], Array]
"""Function of scores of shape (..., seeds, benchmarks), which returns shape (..., *of its own)."""


# ---- aggregates -------------------------------------------------------------------------------------


def interquartile_mean(scores: Array) -> Array:
    """Return the mean of the middle half of all scores.

    A quarter of them, rounded down, is left out at either end. It is as robust as the median against a
    single bad run, and needs fewer seeds.

    Args:
        scores: Shape: (..., seeds, benchmarks).

    Returns:
        Shape: (...).

    Raises:
        ValueError: if there are no scores, or one is not finite.
    """
    pooled = np.sort(_pooled(scores), axis=-1)
    cut = pooled.shape[-1] // 4
    return np.asarray(pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1))


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Return the share of scores above each threshold.

    Args:
        scores: Shape: (..., seeds, benchmarks).
        thresholds: Shape: (thresholds,).

    Returns:
        Shape: (..., thresholds).

    Raises:
        ValueError: if there are no scores, or one is not finite.
    """
    above = _pooled(scores)[..., None] > np.asarray(thresholds, dtype=np.float64)
    return np.asarray(above.mean(axis=-2))


def probability_of_improvement(scores: Array, others: Array) -> Array:
    """Return the probability that a run of one method beats a run of another, averaged over benchmarks.

    Equal scores count half: it is the statistic of Mann and Whitney over the number of pairs.

    Args:
        scores: Shape: (..., seeds, benchmarks).
        others: Shape: (..., other seeds, benchmarks).

    Returns:
        Shape: (...).

    Raises:
        ValueError: if there are no scores, one is not finite, or the numbers of benchmarks differ.
    """
    ours, theirs = _required(scores), _required(others)
    if ours.shape[-1] != theirs.shape[-1]:
        raise ValueError(
            f"Both methods need scores on the same benchmarks: {ours.shape[-1]} and {theirs.shape[-1]}."
        )
    difference = ours[..., :, None, :] - theirs[..., None, :, :]
    wins = (difference > 0) + 0.5 * (difference == 0)
    return np.asarray(wins.mean(axis=(-3, -2, -1)))


def stratified_bootstrap(
    aggregate: Callable[..., Array],
    *scores: Array,
    confidence: float = 0.95,
    draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return both ends of the percentile interval of an aggregate of one method, or of several.

    Args:
        aggregate: Function of as many arrays of scores as are given, with a leading axis of resamples.
        *scores: Scores of each method. Shape of each: (seeds, benchmarks); numbers of seeds may differ.
        confidence: Share of the resampled aggregates within the interval.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        low, high. Shape of each: that of the aggregate of one resample.

    Raises:
        ValueError: if there are no scores, one is not finite, or the confidence is out of range.
    """
    require_confidence(confidence)
    generator = np.random.default_rng(seed)
    resampled = []
    for each in scores:
        own = _required(each)
        rows = generator.integers(own.shape[0], size=(draws, *own.shape))
        resampled.append(np.take_along_axis(own[None], rows, axis=1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(aggregate(*resampled), [tail, 1.0 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def _pooled(scores: Array) -> Array:
    own = _required(scores)
    return own.reshape(*own.shape[:-2], -1)


def _required(scores: Array) -> Array:
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim < 2 or 0 in found.shape[-2:]:
        raise ValueError(
            f"Scores must have the shape (seeds, benchmarks), with at least one of each: {found.shape}."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            "Scores must be finite: leave out a benchmark that a seed has no score on."
        )
    return found


# ---- what goes with what ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Rank correlation, with its interval."""

    value: float
    """Spearman's coefficient, from -1 to 1."""

    low: float
    """Lower end of the interval."""

    high: float
    """Upper end of the interval."""

    count: int
    """Number of pairs of values."""


def rank_correlation(groups: Sequence[Array], confidence: float = 0.95) -> Correlation | None:
    """Return Spearman's rank correlation within groups, whose levels do not count.

    Values are ranked within their group; the ranks, centred and divided by the size of the group, are
    correlated over all groups. With one group it is Spearman's coefficient. The interval is that of Fieller,
    Hartley and Pearson (1957): Fisher's transformation with the variance 1.06 / (pairs - groups - 2). Where
    all pairs are in order, whose transformation is infinite, its inner end is that of the next coefficient:
    with two neighbours exchanged. Groups in which all values of either kind are equal do not count.

    Args:
        groups: Pairs of values. Shape of each: (pairs, 2).
        confidence: Coverage of the interval, from 0.5 to below 1.

    Returns:
        The correlation; None if no group counts, or there are fewer than three pairs more than groups.

    Raises:
        ValueError: if a value is not finite, or the confidence is out of range.
    """
    require_confidence(confidence)
    given = [np.asarray(group, dtype=np.float64).reshape(-1, 2) for group in groups]
    if not all(np.isfinite(group).all() for group in given):
        raise ValueError(
            "Values that are correlated must be finite: leave out the pairs of others."
        )
    given = [group for group in given if all(len(np.unique(column)) > 1 for column in group.T)]
    count = sum(map(len, given))
    freedom = count - len(given) - 2
    if freedom < 1:
        return None
    by_group = [(_ranks(each) - (len(each) + 1) / 2) / len(each) for each in given]
    ours, theirs = np.concatenate(by_group).T
    size = math.sqrt((ours @ ours) * (theirs @ theirs))
    value = min(max(float(ours @ theirs) / size, -1.0), 1.0)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(1.06 / freedom)
    if abs(value) > 1 - 1e-12:
        gaps = np.concatenate([np.diff(np.unique(each[:, 0])) for each in by_group])
        following = max(1 - gaps.min() ** 2 / size, -1 + 1e-12)
        inner = math.tanh(math.atanh(following) - reach)
        low, high = (inner, 1.0) if value > 0 else (-1.0, -inner)
        return Correlation(value, low, high, count)
    middle = math.atanh(value)
    return Correlation(value, math.tanh(middle - reach), math.tanh(middle + reach), count)


def _ranks(values: Array) -> Array:
    """Return ranks from 1 within each column, the mean rank for equal values. Shape: (values, columns)."""
    columns = []
    for column in values.T:
        _, where, counts = np.unique(column, return_inverse=True, return_counts=True)
        columns.append((counts.cumsum() - (counts - 1) / 2)[where])
    return np.stack(columns, axis=1)


# ---- many methods against one -----------------------------------------------------------------------


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the mean of paired differences, by flipping their signs (Fisher, 1935).

    Without an effect, each difference is as likely to have the other sign. All patterns of signs are counted
    for up to 36 seeds, which makes the test exact; beyond that, patterns are drawn, and the observed one
    counts as one of them. With n seeds no p-value is below ``2 / 2**n``: 0.25 with three, 0.06 with five.

    Args:
        differences: One per seed, at least one.

    Raises:
        ValueError: if there is none, or one is not finite.
    """
    given = np.asarray(differences, dtype=np.float64)
    if given.size == 0 or not np.isfinite(given).all():
        raise ValueError(f"A test needs at least one difference, all finite: {given.tolist()}.")
    # Sums that are equal but for rounding count as equal.
    bound = abs(given.sum()) - 1e-12 * given.size * np.abs(given).max()
    if given.size <= MAX_EXACT_SIGNS:
        return _reached(given, bound) / 2.0**given.size
    generator = np.random.default_rng(0)  # the same report every time
    signs = generator.integers(2, size=(NUM_DRAWS, given.size)) * 2.0 - 1.0
    reached = int((np.abs(signs @ given) >= bound).sum())
    return (reached + 1) / (NUM_DRAWS + 1)


def _reached(given: Array, bound: float) -> int:
    """Count the patterns of signs whose sum is the bound at least in size.

    Every sum is one of the first half of the values plus one of the second, which are sorted.
    """
    if bound <= 0:
        return int(2**given.size)
    half = given.size // 2
    first, second = _signed_sums(given[:half]), np.sort(_signed_sums(given[half:]))
    above = second.size - np.searchsorted(second, bound - first, side="left")
    below = np.searchsorted(second, -bound - first, side="right")
    return int(above.sum() + below.sum())


def _signed_sums(given: Array) -> Array:
    """Return the sums of all patterns of signs."""
    sums = np.zeros(1)
    for value in given:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def least_p_value(seeds: int) -> float:
    """Return the smallest p-value that `sign_flip_test` can give with a number of seeds."""
    return 2.0 / 2.0**seeds if seeds <= MAX_EXACT_SIGNS else 1.0 / (NUM_DRAWS + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that are adjusted for their number (Holm, 1979), by name.

    With each adjusted one below a level, the chance of a single false discovery among all is below it, too.

    Raises:
        ValueError: if a p-value is not from 0 to 1.
    """
    for name, each in p_values.items():
        if not 0.0 <= each <= 1.0:
            raise ValueError(f"The p-value of {name} must be from 0 to 1, not {each}.")
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values, key=p_values.__getitem__)
    for position, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - position) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def seeds_needed(comparisons: int, level: float = LEVEL) -> int:
    """Return the smallest number of seeds with which one of several comparisons can fall below a level.

    Args:
        comparisons: Number of methods that are compared with one, at least 1.
        level: Level of significance after Holm's correction.
    """
    return math.ceil(1 + math.log2(comparisons / level))


def what_seeds_can_show(seeds: int, comparisons: int, level: float = LEVEL) -> str:
    """Return a sentence about what a comparison with this many seeds can and cannot show.

    Args:
        seeds: Number of seeds that both methods have, at least 1.
        comparisons: Number of methods that are compared with one.
        level: Level of significance after Holm's correction.
    """
    if seeds < 2:
        return "One seed shows no difference between methods: its numbers are an example. Train more seeds."
    least = min(1.0, comparisons * least_p_value(seeds))
    among = f"{comparisons} comparisons" if comparisons > 1 else "one comparison"
    if least >= level:
        return (
            f"{seeds} seeds cannot show a difference at the level {level:g}: the smallest p-value possible,"
            f" among {among}, is {least:.2g}. The intervals give the size of an effect, not evidence for it;"
            f" {seeds_needed(comparisons, level)} seeds could show one."
        )
    return (
        f"{seeds} seeds can show differences at the level {level:g} (smallest p-value, among {among}:"
        f" {least:.2g}); a difference that is not significant is not shown to be absent."
    )
