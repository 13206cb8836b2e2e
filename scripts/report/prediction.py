"""Whether measures early in a run predict the loss of plasticity at its end, or only accompany it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plasticity.scripts.report.aggregates import Correlation, rank_correlation
from plasticity.scripts.report.arms import NO_VALUE, Arm, shared_positions
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import (
    GAP,
    LOSS_GAP,
    NORMS,
    RANKS,
    SYMMETRY,
    UNITS,
    WEIGHTS,
    WHOLE,
    family_of,
    in_words,
)
from plasticity.scripts.report.statistics import Array
from plasticity.scripts.report.tables import Cell, Table

EARLY = 1 / 3
"""Part of a run after which measures are to predict its end."""

PREDICTORS = (*RANKS, *UNITS, SYMMETRY, *NORMS, *WEIGHTS, *WHOLE)
"""Families of the measures that are tried."""

FEWEST_METHODS = 4
"""Number of methods from which on their means are correlated."""


def prediction_note(confidence: float) -> str:
    """Return the explanation of the table.

    Args:
        confidence: Coverage of its intervals.
    """
    return (
        "Spearman's rank correlation of a measure, a third of the way to the last reference that the methods"
        " share, with the gap there: above 0, runs with a higher value lose more. Within methods, runs of the"
        " same method are ranked among themselves, so that no method's own level counts: a measure whose"
        " interval is without 0 predicts the loss. One that is correlated across the methods' means only"
        f" accompanies it. In brackets: Fieller's {100 * confidence:g} % intervals, by the number of runs or"
        " of methods; many measures are tried, and where none predicts anything about"
        f" {100 * (1 - confidence):.3g} % of the intervals are without 0 by chance. Runs that diverged are"
        " left out, and methods with unfinished runs as long as there are others."
    )


def prediction_table(comparison: Comparison) -> Table | None:
    """Return rank correlations of early measures with the plasticity gap at the end.

    Returns:
        The table; None without a gap, or where no measure has enough runs.
    """
    target = next((name for name in (GAP, LOSS_GAP) if name in comparison.metrics), None)
    if target is None:
        return None
    arms = [arm for arm in comparison.chosen if not arm.unfinished] or comparison.chosen
    ends = shared_positions(arms, target)
    if not ends:
        return None
    rows = []
    for metric in comparison.chosen_metrics:
        if family_of(metric) not in PREDICTORS:
            continue
        early = _early(arms, metric, ends[-1])
        pairs = [pair for arm in arms if len(pair := _pairs(arm, metric, early, target, ends[-1]))]
        several = [pair for pair in pairs if len(pair) > 1]
        within = rank_correlation(several, comparison.confidence)
        means = np.array([pair.mean(axis=0) for pair in pairs])
        is_enough = len(means) >= FEWEST_METHODS
        across = rank_correlation([means], comparison.confidence) if is_enough else None
        if within is not None or across is not None:
            rows.append((Cell(in_words(metric)), _cell(within), _cell(across)))
    if not rows:
        return None
    title = f"What predicts the {in_words(target)}"
    return Table(title, ("measure", "within\nmethods", "across\nmethods"), tuple(rows))


def _early(arms: Sequence[Arm], metric: str, end: int) -> int:
    """Return the position at which a measure is to predict the end, the end itself if there is none."""
    measuring = [arm for arm in arms if metric in arm.metrics]
    positions = shared_positions(measuring, metric) if measuring else ()
    return next((each for each in positions if EARLY * end <= each < end), end)


def _pairs(arm: Arm, metric: str, early: int, target: str, end: int) -> Array:
    """Return the early values and those of the target by run. Shape: (runs, 2)."""
    runs = arm.sound if early < end else ()
    found = [(run.value(metric, early), run.value(target, end)) for run in runs]
    known = [pair for pair in found if None not in pair]
    return np.array(known, dtype=np.float64).reshape(-1, 2)


def _cell(found: Correlation | None) -> Cell:
    if found is None:
        return Cell(NO_VALUE)
    return Cell(
        f"{found.value:+.2f}", (f"[{found.low:+.2f}, {found.high:+.2f}]", f"{found.count} values")
    )
