"""Means over seeds with bootstrap intervals, and differences paired by seed: pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from plasticity.settings import require_number

MAX_EXACT_COUNT = 7
"""Up to this many seeds every resample is counted (1716 distinct ones); beyond it, some are drawn."""

NUM_DRAWS = 10_000
"""Resamples drawn where there are too many to count."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and how far it can be trusted."""

    mean: float
    """Of the values."""

    low: float | None
    """Lower end of the interval; None with one seed."""

    high: float | None
    """Upper end of the interval; None with one seed."""

    count: int
    """Number of seeds, at least 1."""


def require_confidence(confidence: object) -> float:
    """Return the confidence as a float.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not from 0.5 to below 1.
    """
    return require_number("confidence", confidence, minimum=0.5, below=1.0)


def estimate(values: Iterable[float | None], confidence: float = 0.95) -> Estimate | None:
    """Mean of one value per seed, with its percentile bootstrap interval (Efron, 1979).

    Args:
        values: One per seed; None is a seed without a value, and is left out.
        confidence: Share of the resampled means that the interval holds, 0.5 to below 1.

    Returns:
        None without any value.

    Raises:
        ValueError: if a value is not finite, or the confidence is out of range.
    """
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    if not np.isfinite(present).all():
        raise ValueError(f"Values must be finite or None, not {present.tolist()}.")
    if present.size == 0:
        require_confidence(confidence)
        return None
    mean, low, high = (float(end[0]) for end in bands(present[:, None], confidence))
    if math.isnan(low):
        return Estimate(mean, None, None, 1)
    return Estimate(mean, low, high, present.size)


def paired_estimate(
    values: Mapping[int, float | None],
    baseline: Mapping[int, float | None],
    confidence: float = 0.95,
) -> Estimate | None:
    """Mean of the differences `values - baseline`, seed by seed, with its interval.

    What a seed does to both methods (the stream, the weights, the data order) cancels out.

    Args:
        values: By seed.
        baseline: By seed. Seeds that either lacks are left out.
        confidence: As in `estimate`.

    Returns:
        None without a common seed.
    """
    differences = []
    for seed in sorted(values):
        ours, theirs = values[seed], baseline.get(seed)
        if ours is not None and theirs is not None:
            differences.append(ours - theirs)
    return estimate(differences, confidence)


def bands(values: Array, confidence: float = 0.95) -> tuple[Array, Array, Array]:
    """Means over seeds and both ends of their intervals, column by column.

    Args:
        values: NaN where a seed has no value. Shape: (seeds, columns).
        confidence: As in `estimate`.

    Returns:
        mean, low, high; NaN where no seed has a value, low and high also where only one has.
        Shape: (columns,) each.
    """
    require_confidence(confidence)
    mean, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    counts = np.isfinite(values).sum(axis=0)
    for count in np.unique(counts[counts > 0]):
        columns = counts == count
        # NaN sorts last. In sorted order the interval does not depend on the order of the seeds.
        present = np.sort(values[:, columns], axis=0)[:count]
        # Rounding may carry a mean of equal values past them.
        mean[columns] = np.clip(present.mean(axis=0), present[0], present[-1])
        if count > 1:
            ends = _percentile_interval(present, confidence)
            low[columns], high[columns] = np.clip(ends, present[0], present[-1])
    return mean, low, high


def _percentile_interval(values: Array, confidence: float) -> tuple[Array, Array]:
    """Ends of the interval of each column's resampled means; values (seeds, columns), finite."""
    weights, probabilities = _resamples(values.shape[0])
    means = weights @ values
    order = np.argsort(means, axis=0, kind="stable")
    ordered = np.take_along_axis(means, order, axis=0)
    chances = probabilities[order]
    tail = (1.0 - confidence) / 2.0 - 1e-12  # below it only by rounding
    # Each end is the first mean, counted from outside, with a tail's worth of chance at or beyond it.
    first = np.argmax(np.cumsum(chances, axis=0) >= tail, axis=0)
    last = -1 - np.argmax(np.cumsum(chances[::-1], axis=0) >= tail, axis=0)
    columns = np.arange(values.shape[1])
    return ordered[first, columns], ordered[last, columns]


@cache
def _resamples(count: int) -> tuple[Array, Array]:
    """Weights of the seeds in each resample (resamples, seeds), and each one's probability."""
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
