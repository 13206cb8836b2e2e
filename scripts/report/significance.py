"""Evidence for differences: each method against the baseline, by a test that is paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity.scripts.report.aggregates import (
    holm,
    probability_of_improvement,
    sign_flip_test,
    what_seeds_can_show,
)
from plasticity.scripts.report.arms import Arm, shared_positions, values_at
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import in_words, is_better_lower, with_unit
from plasticity.scripts.report.statistics import Array, estimate
from plasticity.scripts.report.tables import Cell, Table, estimate_cell

SHOWN_DIGITS = 2
"""Significant digits of a p-value."""


@dataclass(frozen=True)
class Evidence:
    """Difference of one method to the baseline by the headline, and how sure it is."""

    pairs: Array
    """Values of the method and of the baseline. Shape: (seeds, 2)."""

    p_value: float
    """Two-sided p-value of the differences by seed, by flips of their signs."""

    adjusted: float
    """The same, adjusted for the number of methods (Holm)."""


def evidence(comparison: Comparison) -> dict[str, Evidence]:
    """Return the evidence for each method against the baseline, by the labels of their arms.

    Returns:
        Nothing without a baseline; no entry for a method that shares fewer than two seeds with it.
    """
    baseline = comparison.baseline
    if baseline is None:
        return {}
    pairs = {
        arm.label: pair
        for arm in comparison.chosen
        if arm is not baseline and len(pair := _pairs(comparison, arm, baseline)) > 1
    }
    plain = {
        label: sign_flip_test((pair[:, 0] - pair[:, 1]).tolist()) for label, pair in pairs.items()
    }
    adjusted = holm(plain)
    return {label: Evidence(pairs[label], plain[label], adjusted[label]) for label in pairs}


def significance_table(comparison: Comparison) -> Table | None:
    """Return each method's difference to the baseline by the headline, and how sure it is.

    The probability of improvement is that of a run over one of the baseline, whatever their seeds; p-values
    are those of sign flips of the differences by seed, adjusted for the number of methods (Holm).

    Returns:
        The table, or None without a baseline, without another method, or with a single seed.
    """
    baseline, metric, found = comparison.baseline, comparison.headline, evidence(comparison)
    if baseline is None or not found:
        return None
    rows = []
    for label, each in found.items():
        pairs = each.pairs
        difference = estimate(pairs[:, 0] - pairs[:, 1], comparison.confidence)
        better = float(probability_of_improvement(pairs[:, :1], pairs[:, 1:]))
        better = 1.0 - better if is_better_lower(metric) else better
        rows.append(
            (
                Cell(label, (f"{len(pairs)} seeds",)),
                estimate_cell(difference, metric, len(pairs), signed=True),
                Cell(f"{better:.2f}"),
                Cell(p_text(each.p_value)),
                Cell(p_text(each.adjusted)),
            )
        )
    columns = (
        "method",
        f"minus\n{baseline.label}",
        "probability\nof improvement",
        "p",
        f"p, adjusted\nfor {len(found)}",
    )
    return Table(f"{with_unit(metric)}, {comparison.moment}: evidence", columns, tuple(rows))


def significance_notes(comparison: Comparison) -> list[str]:
    """Return what the number of seeds can show, and on which seeds settings were chosen."""
    notes = []
    baseline = comparison.baseline
    others = [arm for arm in comparison.chosen if arm is not baseline]
    if baseline is not None:
        counts = [len(_pairs(comparison, arm, baseline)) for arm in others]
        # Those that `evidence` tests; without any, single seeds.
        tested = [count for count in counts if count > 1] or [count for count in counts if count]
        if tested:
            notes.append(
                f"By {in_words(comparison.headline)}:"
                f" {what_seeds_can_show(min(tested), len(tested))}"
            )
    return [*notes, *_tuning_notes(comparison.chosen)]


def _tuning_notes(arms: Sequence[Arm]) -> list[str]:
    tuned_on = {arm.label: _tuning_seeds(arm) for arm in arms}
    if not any(tuned_on.values()):
        return []
    notes = []
    for arm in arms:
        both = sorted(tuned_on[arm.label] & {run.seed for run in arm.runs})
        if both:
            notes.append(
                f"{arm.label}: the seeds {', '.join(map(str, both))} also chose its settings, which biases"
                " them upwards."
            )
    untuned = [label for label, seeds in tuned_on.items() if not seeds]
    if untuned:
        notes.append(
            f"The settings of {', '.join(untuned)} were not tuned, those of the others were: the comparison"
            " is not on equal terms."
        )
    if not notes:
        every = sorted(set.union(*tuned_on.values()))
        notes.append(
            f"Settings were tuned on the seeds {', '.join(map(str, every))}, none of which is shown here."
        )
    return notes


def _tuning_seeds(arm: Arm) -> set[int]:
    return {int(seed) for run in arm.runs for seed in run.config.get("tuned_on") or ()}


def _pairs(comparison: Comparison, arm: Arm, baseline: Arm) -> Array:
    """Return the values of both at the seeds that have them. Shape: (seeds, 2)."""
    metric, moment = comparison.headline, comparison.moment
    where = shared_positions([arm, baseline], metric)
    ours, theirs = (values_at(each, metric, moment, where) for each in (arm, baseline))
    found = [
        (ours[seed], theirs[seed])
        for seed in sorted(ours)
        if ours[seed] is not None and theirs.get(seed) is not None
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def p_text(value: float) -> str:
    """Format a p-value."""
    return f"{value:.{SHOWN_DIGITS}g}" if value >= 1e-3 else "< 0.001"
