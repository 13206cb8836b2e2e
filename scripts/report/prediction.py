"""Whether measures early in a run predict the loss of plasticity at its end, or only accompany it."""

from __future__ import annotations

import numpy as np

from plasticity.scripts.report.aggregates import Correlation, rank_correlation
from plasticity.scripts.report.arms import NO_VALUE, Arm
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

NOTE = (
    "Spearman's rank correlation of a measure after a third of the run with the gap at the last reference:"
    " above 0, runs with a higher value lose more. Within methods, runs of the same method are ranked among"
    " themselves, so that no method's own level counts: a measure whose interval is without 0 predicts"
    " the loss. One that is correlated across the methods' means only accompanies it. Intervals are"
    " Fieller's, by the number of runs; many measures are tried, and one in twenty intervals is"
    " without 0 by chance."
)
"""Explanation of the table."""


def prediction_table(comparison: Comparison) -> Table | None:
    """Return rank correlations of early measures with the plasticity gap at the end.

    Returns:
        The table; None without a gap, or where no measure has enough runs.
    """
    target = next((name for name in (GAP, LOSS_GAP) if name in comparison.metrics), None)
    if target is None:
        return None
    rows = []
    for metric in comparison.chosen_metrics:
        if family_of(metric) not in PREDICTORS:
            continue
        pairs = [pair for arm in comparison.chosen if len(pair := _pairs(arm, metric, target)) > 1]
        within = rank_correlation(pairs, comparison.confidence)
        means = np.array([pair.mean(axis=0) for pair in pairs])
        several = len(means) >= FEWEST_METHODS
        across = rank_correlation([means], comparison.confidence) if several else None
        if within is not None or across is not None:
            rows.append((Cell(in_words(metric)), _cell(within), _cell(across)))
    if not rows:
        return None
    title = f"What predicts the {in_words(target)}"
    return Table(title, ("measure", "within\nmethods", "across\nmethods"), tuple(rows))


def _pairs(arm: Arm, metric: str, target: str) -> Array:
    """Return the early values and those of the target by run. Shape: (runs, 2)."""
    ends, measured = arm.positions_of(target), arm.positions_of(metric)
    if not ends or not measured:
        return np.empty((0, 2))
    early = next((each for each in measured if each >= EARLY * ends[-1]), measured[-1])
    if early >= ends[-1]:
        return np.empty((0, 2))
    found = [(run.value(metric, early), run.value(target, ends[-1])) for run in arm.sound]
    known = [pair for pair in found if None not in pair]
    return np.array(known, dtype=np.float64).reshape(-1, 2)


def _cell(found: Correlation | None) -> Cell:
    if found is None:
        return Cell(NO_VALUE)
    return Cell(
        f"{found.value:+.2f}", (f"[{found.low:+.2f}, {found.high:+.2f}]", f"{found.count} values")
    )
