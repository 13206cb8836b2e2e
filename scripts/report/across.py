"""Aggregates over the benchmarks of a report: tables and curves of all methods that were run on each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plasticity.scripts.report.aggregates import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from plasticity.scripts.report.arms import shared_positions, values_at
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import in_words, is_better_lower, is_share
from plasticity.scripts.report.statistics import Array
from plasticity.scripts.report.tables import Cell, Table

NUM_THRESHOLDS = 51
"""Number of scores at which performance profiles are computed, from the lowest of all to the highest."""

PROFILE_DRAWS = 1_000
"""Number of bootstrap resamples of a performance profile."""


@dataclass(frozen=True)
class Across:
    """Scores of several methods on several benchmarks, higher is better."""

    benchmarks: tuple[str, ...]
    """Names of the benchmarks."""

    scores: Mapping[str, Array]
    """Scores by method. Shape of each: (seeds, benchmarks)."""

    baseline: str | None
    """Method that the others are compared with, at its best setting, if it is the same on all benchmarks."""

    left_out: tuple[str, ...]
    """Methods without a score on some benchmark."""

    cut: tuple[str, ...]
    """Methods that have more seeds on some benchmark than on another, of which the first ones count."""

    diverged: tuple[str, ...]
    """Methods with a run that diverged on some benchmark, which has the worst score there."""

    meaning: str
    """Sentence about what a score is."""

    confidence: float
    """Confidence level of the intervals."""

    @cached_property
    def profiles(self) -> tuple[Array, dict[str, tuple[Array, Array, Array]]]:
        """Share of each method's scores above thresholds, with both ends of its interval, NaN with one seed.

        The thresholds, and shares, lower and upper ends by method. Shape of each: (thresholds,).
        """
        every = np.concatenate([scores.ravel() for scores in self.scores.values()])
        thresholds = np.linspace(every.min(), every.max(), NUM_THRESHOLDS)

        def profile(scores: Array) -> Array:
            return performance_profile(scores, thresholds)

        shares = {}
        for method, scores in self.scores.items():
            low = high = np.full_like(thresholds, np.nan)
            if len(scores) > 1:
                low, high = stratified_bootstrap(
                    profile, scores, confidence=self.confidence, draws=PROFILE_DRAWS
                )
            shares[method] = (profile(scores), low, high)
        return thresholds, shares

    @cached_property
    def improvements(self) -> tuple[list[str], Array]:
        """Probability that a run of each method beats one of each other, averaged over benchmarks.

        The methods, from the one with the highest interquartile mean to the lowest, and the probabilities
        of the methods of the rows over those of the columns. Shape: (methods, methods), 0.5 on the diagonal.
        """
        means = {
            method: float(interquartile_mean(scores)) for method, scores in self.scores.items()
        }
        methods = sorted(means, key=means.__getitem__, reverse=True)
        scores = [self.scores[method] for method in methods]
        values = [[float(probability_of_improvement(a, b)) for b in scores] for a in scores]
        return methods, np.array(values)


def across(comparisons: Sequence[Comparison]) -> Across | None:
    """Return the scores on all benchmarks.

    A score is the headline metric where it is a share on all of them, and more of it is better. Otherwise it
    is scaled on each, so that 0 is the worst run and 1 the best. A run that diverged has 0 either way.

    Args:
        comparisons: Comparisons, one per benchmark.

    Returns:
        The scores, or None with one benchmark, or without a method that was run on all.
    """
    if len(comparisons) < 2:
        return None
    by_benchmark = [_scores_of(comparison) for comparison in comparisons]
    are_shares = all(
        is_share(each.headline) and not is_better_lower(each.headline) for each in comparisons
    )
    scaled = _without_diverged if are_shares else _scaled
    by_benchmark = [scaled(scores) for scores in by_benchmark]
    methods = dict.fromkeys(method for scores in by_benchmark for method in scores)
    scores = {method: _of_all(method, by_benchmark) for method in methods}
    known = {method: found for method, found in scores.items() if len(found)}
    if not known:
        return None
    metrics = dict.fromkeys(map(_measured, comparisons))
    meaning = f"A score is what methods are compared by, the {' or the '.join(metrics)}"
    if not are_shares:
        meaning += ", scaled so that the worst run on a benchmark has 0 and the best has 1"
    baselines = {
        next((arm.method for arm in each.chosen if arm is each.baseline), None)
        for each in comparisons
    }
    baseline = baselines.pop() if len(baselines) == 1 else None
    return Across(
        benchmarks=tuple(comparison.benchmark for comparison in comparisons),
        scores=known,
        baseline=baseline if baseline in known else None,
        left_out=tuple(method for method in methods if method not in known),
        cut=tuple(
            method
            for method, found in known.items()
            if any(len(scores[method]) > len(found) for scores in by_benchmark)
        ),
        diverged=tuple(
            method
            for method in methods
            if any(
                arm.diverged for each in comparisons for arm in each.chosen if arm.method == method
            )
        ),
        meaning=f"{meaning}.",
        confidence=comparisons[0].confidence,
    )


def _measured(comparison: Comparison) -> str:
    """Return what a benchmark's methods are compared by, in words."""
    at_end = f"at the last {comparison.axis.name}"
    when = at_end if comparison.moment == "last" else comparison.averaged
    return f"{in_words(comparison.headline)} {when}"


def _scores_of(comparison: Comparison) -> dict[str, dict[int, float]]:
    """Return scores by method and seed, those of losses with their sign changed.

    Runs that diverged have minus infinity; those without a score for another reason are left out.
    """
    metric, moment = comparison.headline, comparison.moment
    where = shared_positions(comparison.chosen, metric)
    sign = -1.0 if is_better_lower(metric) else 1.0
    found: dict[str, dict[int, float]] = {}
    for arm in comparison.chosen:
        values = values_at(arm, metric, moment, where)
        known = {seed: sign * value for seed, value in values.items() if value is not None}
        lost = {run.seed: -math.inf for run in arm.diverged}  # also after the shared positions
        found[arm.method] = known | lost
    return found


def _without_diverged(scores: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Return shares, with 0 for the runs that diverged."""
    return {
        method: {seed: max(value, 0.0) for seed, value in by_seed.items()}
        for method, by_seed in scores.items()
    }


def _scaled(scores: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """Return scores from 0, for the worst run and those that diverged, to 1."""
    values = [value for by_seed in scores.values() for value in by_seed.values()]
    finite = [value for value in values if value > -math.inf]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    width = high - low if high > low else 1.0
    return {
        method: {seed: max(value - low, 0.0) / width for seed, value in by_seed.items()}
        for method, by_seed in scores.items()
    }


def _of_all(method: str, by_benchmark: Sequence[Mapping[str, Mapping[int, float]]]) -> Array:
    """Return the scores of a method on all benchmarks, of as many seeds on each. Shape: (seeds, benchmarks).

    Which seeds they are matters only within a benchmark, where methods are compared; those of two benchmarks
    have nothing in common. Of a benchmark with more seeds than another the first ones count.
    """
    found = [scores.get(method, {}) for scores in by_benchmark]
    count = min(map(len, found))
    columns = [[by_seed[seed] for seed in sorted(by_seed)[:count]] for by_seed in found]
    return np.array(columns, dtype=np.float64).T


# ---- what is shown ----------------------------------------------------------------------------------


def across_table(found: Across) -> Table:
    """Return interquartile means, and probabilities of improvement over the baseline, by method."""
    rows = []
    for method, scores in found.scores.items():
        cells = [
            Cell(method, (f"{len(scores)} seed{'s' if len(scores) > 1 else ''}",)),
            _cell(*interquartile(found, method), len(scores)),
        ]
        if found.baseline is not None:
            cells.append(_improvement(found, method))
        rows.append(tuple(cells))
    columns = ["method", "interquartile\nmean"]
    if found.baseline is not None:
        columns.append(f"probability of improvement\nover {found.baseline}")
    return Table("all benchmarks", tuple(columns), tuple(rows))


def interquartile(found: Across, method: str) -> tuple[float, float, float]:
    """Return the interquartile mean of a method, and both ends of its interval; NaN with one seed."""
    return interquartile_with_interval(found.scores[method], found.confidence)


def interquartile_with_interval(scores: Array, confidence: float) -> tuple[float, float, float]:
    """Return the interquartile mean, and both ends of its bootstrap interval; NaN with one seed.

    Args:
        scores: Shape: (seeds, benchmarks).
        confidence: Confidence level of the interval.
    """
    middle = float(interquartile_mean(scores))
    if len(scores) < 2:
        return middle, math.nan, math.nan
    low, high = stratified_bootstrap(interquartile_mean, scores, confidence=confidence)
    return middle, float(low), float(high)


def _improvement(found: Across, method: str) -> Cell:
    if method == found.baseline:
        return Cell("baseline")
    assert found.baseline is not None
    seeds = min(len(found.scores[method]), len(found.scores[found.baseline]))
    return _cell(*_probability(found, method), seeds)


def _probability(found: Across, method: str) -> tuple[float, float, float]:
    """Return the probability that a run of a method beats one of the baseline, and its interval."""
    assert found.baseline is not None
    pair = found.scores[method], found.scores[found.baseline]
    low, high = stratified_bootstrap(probability_of_improvement, *pair, confidence=found.confidence)
    return float(probability_of_improvement(*pair)), float(low), float(high)


def _cell(middle: float, low: float, high: float, seeds: int) -> Cell:
    if seeds < 2:
        return Cell(f"{middle:.3f}", ("one seed",))
    return Cell(f"{middle:.3f}", (f"({low:.3f}, {high:.3f})",))


def improvement_table(found: Across) -> Table | None:
    """Return the improvements as a table; None with a single method."""
    methods, values = found.improvements
    if len(methods) < 2:
        return None
    rows = tuple(
        (Cell(method), *(Cell("" if i == j else f"{value:.2f}") for j, value in enumerate(row)))
        for i, (method, row) in enumerate(zip(methods, values, strict=True))
    )
    return Table(
        "Probability that a run of the row beats one of the column", ("method", *methods), rows
    )


def across_notes(found: Across) -> list[str]:
    """Return what a reader needs to interpret the table and the figures."""
    share = f"{100 * found.confidence:g} %"
    notes = [
        f"{found.meaning} In parentheses: {share} bootstrap intervals, stratified by benchmark; they are too"
        " narrow with few seeds. The interquartile mean is that of the middle half of all runs. The"
        " performance profile is the share of runs above each score."
    ]
    if found.left_out:
        notes.append(
            f"Left out, for want of a score on each benchmark: {', '.join(found.left_out)}."
        )
    if found.cut:
        notes.append(
            f"{', '.join(found.cut)}: of a benchmark with more seeds than another, the first ones count."
        )
    if found.diverged:
        notes.append(
            f"Runs of {', '.join(found.diverged)} diverged: they have a score of 0 on their benchmark."
        )
    return notes


def across_headline(found: Across) -> str:
    """Return two sentences: which method has the best interquartile mean, and how sure that is."""
    means = {method: float(interquartile_mean(each)) for method, each in found.scores.items()}
    best = max(means, key=means.__getitem__)
    count = len(found.benchmarks)
    rest = [f"{method} {mean:.3f}" for method, mean in means.items() if method != best]
    others = f" ({', '.join(rest)})" if rest else ""
    first = (
        f"Over {count} benchmarks, {best} has the highest interquartile mean: {means[best]:.3f}{others}."
        if rest
        else f"Over {count} benchmarks, {best} has an interquartile mean of {means[best]:.3f}."
    )
    others_than_baseline = [method for method in means if method != found.baseline]
    if found.baseline is None:
        reason = "no baseline is the same on all of them: name a method with --baseline"
        return f"{first} No test was made, for {reason}."
    if not others_than_baseline:
        return f"{first} No other method was run on all of them that it could be compared with."
    compared = best if best != found.baseline else max(others_than_baseline, key=means.get)  # type: ignore[arg-type]
    pair = found.scores[compared], found.scores[found.baseline]
    share = f"{100 * found.confidence:g} %"
    middle, low, high = _probability(found, compared)
    seeds = min(map(len, pair))
    chance = f"A run of {compared} beats one of {found.baseline} with probability {middle:.2f}"
    if seeds < 2:
        return f"{first} {chance}, by a single seed, which is no evidence."
    verdict = (
        "neither is shown to be better" if low <= 0.5 <= high else "the interval is without 0.5"
    )
    return (
        f"{first} {chance}, {share} bootstrap interval {low:.2f} to {high:.2f}: {verdict} (by {seeds}"
        " seeds on each benchmark; with few seeds the interval is too narrow)."
    )
