"""Means over seeds with their intervals, and differences paired by seed: pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_number

MAX_EXACT_COUNT = 7
"""Largest number of seeds for which all resamples are enumerated (1716 distinct ones); beyond it, a sample
is drawn."""

NUM_DRAWS = 10_000
"""Number of resamples drawn where there are too many to enumerate."""

Array = NDArray[np.float64]


Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, with its intervals."""

    mean: float
    """Mean of the values."""

    count: int
    """Number of seeds, at least 1."""

    t: Interval | None
    """Student's t interval of the mean; None with one seed."""

    bootstrap: Interval | None
    """Percentile bootstrap interval of the mean; None with one seed. Too narrow with few seeds."""


def require_confidence(confidence: object) -> float:
    """Return the confidence as a float.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is below 0.5, or 1 or more.
    """
    return require_number("confidence", confidence, minimum=0.5, below=1.0)


def estimate(values: Iterable[float | None], confidence: float = 0.95) -> Estimate | None:
    """Estimate the mean of one value per seed, with both intervals.

    - Student's t: mean ± t * s / sqrt(n), exact at any number of seeds if the values are normal.
    - Percentile bootstrap (Efron, 1979): makes no assumption about the values, but covers the mean too
      rarely with few seeds: for normal values, the coverage of a 95 % interval is 74, 84 and 90 % at
      3, 5 and 10 seeds.

    Args:
        values: One per seed; None marks a seed without a value, which is left out.
        confidence: Coverage of the t interval, and share of the resampled means within the bootstrap
            interval; from 0.5 to below 1.

    Returns:
        The estimate, or None if there is no value.

    Raises:
        ValueError: if a value is not finite, or the confidence is out of range.
    """
    require_confidence(confidence)
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    if not np.isfinite(present).all():
        raise ValueError(
            f"Values must be finite or None, not {present.tolist()}: pass None for a seed without a value."
        )
    if present.size == 0:
        return None
    mean, low, high = (float(end[0]) for end in bands(present[:, None], confidence))
    if present.size == 1:
        return Estimate(mean, 1, None, None)
    return Estimate(mean, present.size, (low, high), _percentile_interval(present, confidence))


def paired_estimate(
    values: Mapping[int, float | None],
    baseline: Mapping[int, float | None],
    confidence: float = 0.95,
) -> Estimate | None:
    """Estimate the mean of the paired differences `values - baseline`, with its intervals.

    Effects of the seed that both methods share (the task stream, the initial weights, the data order)
    cancel out.

    Args:
        values: Values of the method, by seed.
        baseline: Values of the baseline, by seed. Seeds missing from either are left out.
        confidence: As in `estimate`.

    Returns:
        The estimate, or None if no seed has both values.
    """
    differences = []
    for seed in sorted(values):
        ours, theirs = values[seed], baseline.get(seed)
        if ours is not None and theirs is not None:
            differences.append(ours - theirs)
    return estimate(differences, confidence)


def bands(values: Array, confidence: float = 0.95) -> tuple[Array, Array, Array]:
    """Compute means over seeds and both ends of their t intervals, column by column.

    Args:
        values: NaN where a seed has no value. Shape: (seeds, columns).
        confidence: As in `estimate`.

    Returns:
        mean, low, high: NaN where no seed has a value; low and high also where only one has.
        Shape of each: (columns,).
    """
    require_confidence(confidence)
    mean, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    counts = np.isfinite(values).sum(axis=0)
    for count in np.unique(counts[counts > 0]):
        columns = counts == count
        # NaN sorts last. Sorting also makes the sums independent of the order of the seeds.
        present = np.sort(values[:, columns], axis=0)[:count]
        # Rounding can move the mean of equal values away from them.
        middle = np.clip(present.mean(axis=0), present[0], present[-1])
        mean[columns] = middle
        if count > 1:
            deviation = np.sqrt(((present - middle) ** 2).sum(axis=0) / (count - 1))
            reach = _t_quantile(int(count) - 1, confidence) * deviation / math.sqrt(count)
            low[columns], high[columns] = middle - reach, middle + reach
    return mean, low, high


@cache
def _t_quantile(degrees: int, confidence: float) -> float:
    """Return the bound that the absolute value of a t variable stays below with the given probability."""
    from scipy.special import stdtrit  # noqa: PLC0415  (slow import, needed by reports only)

    return float(stdtrit(degrees, (1.0 + confidence) / 2.0))


def _percentile_interval(values: Array, confidence: float) -> Interval:
    """Return the ends of the percentile interval of resampled means.

    Args:
        values: Finite values. Shape: (seeds,).
        confidence: Share of the resampled means within the interval.
    """
    values = np.sort(values)  # makes the interval independent of the order of the seeds
    weights, probabilities = _resamples(values.size)
    means = weights @ values
    order = np.argsort(means, kind="stable")
    ordered, masses = means[order], probabilities[order]
    tail = (1.0 - confidence) / 2.0 - 1e-12  # a sum may fall short of it by rounding
    # Each end is the first mean, counted inwards, with a tail's probability at or beyond it.
    first = np.argmax(np.cumsum(masses) >= tail)
    last = -1 - np.argmax(np.cumsum(masses[::-1]) >= tail)
    low, high = np.clip([ordered[first], ordered[last]], values[0], values[-1])
    return float(low), float(high)


@cache
def _resamples(count: int) -> tuple[Array, Array]:
    """Return the weights of the seeds in each resample, and the probability of each resample.

    Returns:
        Weights of shape (resamples, seeds), and probabilities of shape (resamples,).
    """
    if count > MAX_EXACT_COUNT:
        generator = np.random.default_rng(0)  # the same report every time
        drawn = generator.multinomial(count, np.full(count, 1.0 / count), size=NUM_DRAWS)
        return drawn / count, np.full(NUM_DRAWS, 1.0 / NUM_DRAWS)
    weights, probabilities = [], []
    for chosen in itertools.combinations_with_replacement(range(count), count):
        times = np.bincount(chosen, minlength=count)
        arrangements = math.factorial(count) / math.prod(math.factorial(int(k)) for k in times)
        weights.append(times / count)
        probabilities.append(arrangements / count**count)
    return np.array(weights), np.array(probabilities)
