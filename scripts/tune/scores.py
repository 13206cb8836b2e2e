"""Score of a setting: how its runs did, over the part of the benchmark that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from plasticity.scripts.report.arms import Arm, values_at
from plasticity.scripts.report.metric_names import in_words
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.statistics import Estimate, estimate

MEASURES = ("episode_return", "online_accuracy", "online_loss", "test_accuracy", "train_accuracy")
"""Measures that settings are compared by, unless one is named: the first that the runs have."""


def measure_of(runs: Sequence[Run], wanted: str | None) -> str:
    """Return the measure that settings are compared by.

    Raises:
        ValueError: if the runs do not have the wanted one, or none that is known.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if wanted is not None and wanted not in known:
        raise ValueError(f"--measure {wanted}: the runs have {', '.join(known) or 'no rows'}.")
    found = wanted or next((each for each in MEASURES if each in known), None)
    if found is None:
        raise ValueError(
            f"The runs have none of {', '.join(MEASURES)}: name what settings are compared by, --measure"
            f" NAME, one of {', '.join(known)}."
        )
    return found


def first_part(run: Run, length: int) -> Run:
    """Return a run as it was at a length: an earlier search in the same folder may have trained it longer."""
    for count, row in enumerate(run.rows, start=1):
        # A row at a change of the task is never the last of a run.
        if not row.get("boundary") and run.axis.done_at(run.position(row)) >= length:
            return replace(run, rows=run.rows[:count])
    return run


def score(runs: Sequence[Run], measure: str) -> Estimate | None:
    """Return the mean of a measure over the whole length of the runs, and over their seeds.

    Over tasks of equal length it is the area under the curve, divided by its length.

    Returns:
        The estimate; None if a run diverged, as the others do not represent the setting.
    """
    if any(run.diverged_at is not None for run in runs):
        return None
    arm = Arm(runs[0].method, {}, "", tuple(runs))
    values = values_at(arm, measure, "average", arm.positions_of(measure))
    return estimate(values.values())


def in_sentence(measure: str, found: Estimate | None) -> str:
    """Return a score in words."""
    if found is None:
        return "diverged"
    return f"{in_words(measure)} {found.mean:.4g}"
