"""Tables of a report: values with their intervals, by method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plasticity.scripts.report.arms import (
    MOMENTS,
    NO_VALUE,
    Arm,
    differing_keys,
    moments,
    paired_summary,
    plain,
    shared_positions,
    summary,
)
from plasticity.scripts.report.axis import Axis
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import (
    compared_at,
    factor_of,
    in_words,
    is_percent,
    is_share,
    with_unit,
)
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.statistics import Estimate, estimate, paired_estimate


@dataclass(frozen=True)
class Cell:
    """Cell of a table: a main text, and smaller lines below it."""

    text: str
    """Value, or name."""

    details: tuple[str, ...] = ()
    """Intervals of the value, and remarks."""


@dataclass(frozen=True)
class Table:
    """Table for the terminal and for the page."""

    title: str
    """Title above the table."""

    columns: tuple[str, ...]
    """Headings, of one line or two; the first column holds names, the others values."""

    rows: tuple[tuple[Cell, ...], ...]
    """Rows, each with a cell per column."""


BOUNDS = (1000, 10, 1, 0.1, 0.01, 0.001)
"""Sizes below each of which a number has one more decimal."""


def decimals_of(size: float, *, percent: bool) -> int:
    """Return the number of decimals of values: one of percentages, else so many that three digits are seen.

    Args:
        size: Absolute value of the largest of them, of which three digits are seen if it is 0.0001 or more.
        percent: Whether they are in per cent.
    """
    return 1 if percent or not size else sum(size < bound for bound in BOUNDS)


def format_values(values: Sequence[float], metric: str, *, signed: bool = False) -> list[str]:
    """Format values: shares in per cent, the rest with three digits of the largest (`decimals_of`).

    Signed ones, a difference and the ends of its intervals, have up to two more decimals, until the last
    one is an eighth of their spread at most: +0.07 [+0.02, +0.12] is not +0.1 [+0.0, +0.1].
    """
    factor = factor_of(metric)
    size, spread = max(abs(value) for value in values), max(values) - min(values)
    decimals = decimals_of(size, percent=is_percent(metric))
    if signed and spread > 1e-9 * size:  # less is rounding
        needed = math.ceil(-math.log10(factor * spread / 8))
        decimals = max(decimals, min(needed, decimals + 2))
    return [f"{factor * value:{'+' if signed else ''}.{decimals}f}" for value in values]


def estimate_cell(found: Estimate | None, metric: str, runs: int, *, signed: bool = False) -> Cell:
    """Return a mean over seeds with its t interval in brackets and its bootstrap interval in parentheses.

    Args:
        found: Mean and intervals; None where no seed has a value.
        metric: Name in the rows, which determines the format.
        runs: Number of seeds; a mean over fewer values is marked as such.
        signed: Whether to write a plus, as for differences.
    """
    if found is None:
        return Cell(NO_VALUE)
    intervals = [ends for ends in (found.t, found.bootstrap) if ends is not None]
    every = [found.mean, *(end for ends in intervals for end in ends)]
    if is_share(metric) and not signed:  # a share: no mean lies outside 0 to 1
        every = [min(max(value, 0.0), 1.0) for value in every]
    text, *ends = format_values(every, metric, signed=signed)
    details = ["one seed"]
    if ends:
        # The notes of a comparison, and the top of the page, say which is which.
        details = [f"[{ends[0]}, {ends[1]}]", f"({ends[2]}, {ends[3]})"]
    if found.count != runs:
        details.append(f"{found.count} of {runs} seeds")
    return Cell(text, tuple(details))


def _name_cell(arm: Arm, positions: Sequence[int] = ()) -> Cell:
    runs = len(arm.runs)
    details = [arm.apart] if arm.apart else []
    details.append(f"{runs} seed{'s' if runs > 1 else ''}")
    if positions:
        details.append(arm.started[0].axis.span(list(moments(positions).values())))
    if arm.diverged:
        details.append(f"{len(arm.diverged)} of {runs} diverged")
    if arm.unfinished:
        details.append(f"{len(arm.unfinished)} of {runs} unfinished")
    return Cell(arm.method, tuple(details))


def metric_table(comparison: Comparison, metric: str, arms: Sequence[Arm], *, full: bool) -> Table:
    """Return means over seeds at the first, middle and last task (or step) and over all, and differences.

    Args:
        comparison: Comparison that gives the baseline and the confidence.
        metric: Name in the rows.
        arms: Arms to show, a row each.
        full: Whether to show the difference at every moment. Otherwise only at the one that methods are
            compared at: the last, or the average for returns.
    """
    usual = comparison.moment if metric == comparison.headline else compared_at(metric)
    compared = MOMENTS if full else (usual,)
    positions = _position_headings(comparison, arms, metric)
    rows = []
    for arm in arms:
        found = summary(arm, metric, comparison.confidence)
        name = _name_cell(arm, arm.positions_of(metric) if not positions["last"] else ())
        cells = [name, *(estimate_cell(found[m], metric, len(arm.runs)) for m in MOMENTS)]
        rows.append((*cells, *_differences(comparison, arm, metric, compared)))
    headings = [f"{name}\n{position}".strip() for name, position in positions.items()]
    headings += _difference_headings(comparison, compared)
    return Table(with_unit(metric), ("method", *headings), tuple(rows))


def _differences(
    comparison: Comparison, arm: Arm, metric: str, moments: Sequence[str]
) -> list[Cell]:
    """Return the differences to the baseline at these moments; no cell without a baseline."""
    if comparison.baseline is None:
        return []
    if arm is comparison.baseline:
        return [Cell("baseline")] * len(moments)
    paired = paired_summary(arm, comparison.baseline, metric, comparison.confidence)
    return [estimate_cell(paired[m], metric, len(arm.runs), signed=True) for m in moments]


def _difference_headings(comparison: Comparison, moments: Sequence[str]) -> list[str]:
    baseline = comparison.baseline
    return [] if baseline is None else [f"{m} minus\n{baseline.label}" for m in moments]


def _position_headings(comparison: Comparison, arms: Sequence[Arm], metric: str) -> dict[str, str]:
    """Return the task (or step) of each moment, or "" where the arms disagree."""
    found = [moments(arm.positions_of(metric)) for arm in arms]
    positions = {m: {each.get(m) for each in found} for m in MOMENTS if m != "average"}
    return {
        m: _heading(comparison.axis, *positions[m]) if len(positions.get(m, ())) == 1 else ""
        for m in MOMENTS
    }


def _heading(axis: Axis, position: int | None) -> str:
    return f"({axis.name} {position if position is None else axis.text(position)})"


def best_table(comparison: Comparison) -> Table:
    """Compare the methods fairly: each at its own best setting."""
    metric, compared = comparison.headline, (comparison.moment,)
    common = shared_positions(comparison.chosen, metric)
    rows = []
    for arm in comparison.chosen:
        found = summary(arm, metric, comparison.confidence, common)
        cells = [
            _name_cell(arm),
            Cell(str(len(comparison.arms_of(arm.method)))),
            *(estimate_cell(found[m], metric, len(arm.runs)) for m in ("last", "average")),
        ]
        rows.append((*cells, *_differences(comparison, arm, metric, compared)))
    last = f"\n{_heading(comparison.axis, common[-1])}" if common else ""
    headings = ("method", "settings\ntried", f"last{last}", "average")
    title = f"{with_unit(metric)}, each method at its own best setting"
    return Table(title, (*headings, *_difference_headings(comparison, compared)), tuple(rows))


def settings_table(comparison: Comparison) -> Table:
    """Return the settings that differ between arms, and the progress of each arm's runs."""
    apart = differing_keys([arm.settings for arm in comparison.arms])
    rows = []
    for arm in comparison.arms:
        values = [Cell(plain(arm.settings.get(key))) for key in apart]
        seeds = Cell(", ".join(str(run.seed) for run in arm.runs))
        done = Cell(", ".join(_done(run) for run in arm.started))
        rows.append((Cell(arm.label), *values, seeds, done))
    return Table("Arms", ("method", *apart, "seeds", comparison.axis.done), tuple(rows))


def _done(run: Run) -> str:
    done = run.axis.done_at(max(run.by_position))
    return f"{run.axis.text(done)} of {run.axis.text(run.planned)}"


# ---- tasks of runs with a row per number of steps ---------------------------------------------------


def task_table(comparison: Comparison) -> Table | None:
    """Return the mean return of the episodes of each task, by method, and the differences to the baseline.

    Returns:
        The table, or None if no run has played a task to its end.
    """
    arms = [arm for arm in comparison.chosen if arm.tasks]
    baseline, confidence = comparison.baseline, comparison.confidence
    others = [] if baseline is None else [arm for arm in arms if arm is not baseline]
    rows = []
    for task in sorted({task for arm in arms for task in arm.tasks}):
        cells = [Cell(str(task))]
        for arm in arms:
            found = estimate(task_returns(arm, task).values(), confidence)
            cells.append(estimate_cell(found, "episode_return", len(arm.runs)))
        for arm in others:
            assert baseline is not None
            pair = task_returns(arm, task), task_returns(baseline, task)
            difference = paired_estimate(*pair, confidence)
            cells.append(estimate_cell(difference, "episode_return", len(arm.runs), signed=True))
        rows.append(tuple(cells))
    headings = ["task", *(arm.label for arm in arms)]
    headings += [f"{arm.label}\nminus {baseline.label}" for arm in others if baseline is not None]
    return Table("episode return per task", tuple(headings), tuple(rows)) if rows else None


def task_returns(arm: Arm, task: int) -> dict[int, float | None]:
    """Return the mean return in one task, by seed; None where the arm has not played it to its end."""
    known = task in arm.tasks
    return {run.seed: run.task_returns.get(task) if known else None for run in arm.runs}


def _described(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def description_table(comparison: Comparison, key: str) -> Table:
    """Return what the stream tells of each task, by seed; it is the same for every method.

    Args:
        comparison: Comparison of the runs.
        key: Key of the rows, of `Comparison.described`.
    """
    by_seed: dict[int, dict[int, float | str]] = {}
    for run in sorted(comparison.runs, key=lambda run: run.seed):
        if run.described(key):
            by_seed.setdefault(run.seed, {}).update(run.described(key))
    tasks = sorted({task for each in by_seed.values() for task in each})
    rows = [
        [
            str(task),
            *(_described(each[task]) if task in each else NO_VALUE for each in by_seed.values()),
        ]
        for task in tasks
    ]
    headings = ("task", *(f"seed {seed}" for seed in by_seed))
    return Table(
        f"{in_words(key)} of each task", headings, tuple(tuple(map(Cell, row)) for row in rows)
    )
