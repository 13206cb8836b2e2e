"""Costs of methods beside what they bring: measured times of a step, from `plasticity bench`."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from plasticity.mitigations import PLAIN
from plasticity.scripts.report.across import Across, interquartile
from plasticity.scripts.report.arms import shared_positions, summary
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.contents import styles_of
from plasticity.scripts.report.legend import legend_columns, legend_handles, legend_lines
from plasticity.scripts.report.metric_names import factor_of, is_better_lower, with_unit
from plasticity.scripts.report.panels import RC_PARAMS, new_figure, style_of

MEASUREMENT = "methods"
"""Measurement of `plasticity bench` that has the costs."""

WIDE = 4.0
"""Ratio of the ends of an axis of costs from which on its ticks are further apart at higher costs."""

Costs = Mapping[str, Mapping[str, float]]
"""Time of a step over that without a mitigation, by what was trained (a network and its batch), by method."""


@dataclass(frozen=True)
class Score:
    """Score of a method, and its interval."""

    middle: float
    """Mean over seeds, or interquartile mean over benchmarks."""

    low: float
    """Lower end of the interval; NaN with one seed."""

    high: float
    """Upper end of the interval; NaN with one seed."""


def read_costs(file: Path) -> Costs:
    """Read the costs of methods from a file that `plasticity bench --only methods --out FILE` wrote.

    Raises:
        ValueError: if it is no such file, or has no costs.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        found = [_cost(row) for row in rows if row["measurement"] == MEASUREMENT]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"Cannot read costs from {file} ({error}). {_REMEDY}") from error
    costs: dict[str, dict[str, float]] = {}
    for case, method, value in filter(None, found):
        costs.setdefault(case, {PLAIN: 1.0})[method] = value
    if not costs:
        raise ValueError(f"{file} has no times of methods' steps. {_REMEDY}")
    return costs


_REMEDY = "Write the file with: plasticity bench --only methods --out costs.json"


def _cost(row: Mapping[str, Any]) -> tuple[str, str, float] | None:
    """Return what was trained, the method, and its time; None if it was not measured, or is not a time."""
    if row["unit"] != "time" or row["value"] is None:
        return None
    method, _, case = row["case"].partition(", ")
    value = float(row["value"])
    if not 0.0 < value < math.inf:
        raise ValueError(f"{row['case']}: a time must be a finite number above 0, not {value}")
    return case, method, value


def benchmark_costs(comparison: Comparison, costs: Costs) -> Figure | None:
    """Draw what methods bring on one benchmark, with t intervals, over what they cost.

    Returns:
        The figure, or None if no method has both.
    """
    metric, moment = comparison.headline, comparison.moment
    where = shared_positions(comparison.chosen, metric)
    factor = factor_of(metric)
    scores = {}
    for arm in comparison.chosen:
        found = summary(arm, metric, comparison.confidence, where)[moment]
        if found is not None:
            low, high = found.t or (math.nan, math.nan)
            scores[arm.method] = Score(factor * found.mean, factor * low, factor * high)
    return _cost_figure(scores, with_unit(metric), costs, falls=is_better_lower(metric))


def costs_across(found: Across, costs: Costs) -> Figure | None:
    """Draw interquartile means over all benchmarks, with bootstrap intervals, over what methods cost.

    Returns:
        The figure, or None if no method has both.
    """
    scores = {method: Score(*interquartile(found, method)) for method in found.scores}
    return _cost_figure(scores, "interquartile mean", costs)


def _cost_figure(
    scores: Mapping[str, Score], label: str, costs: Costs, *, falls: bool = False
) -> Figure | None:
    """Draw scores over costs, a panel for each case, and a line through the methods that no other beats.

    Args:
        scores: Scores by method.
        label: Label of the scores.
        costs: Costs by case and method.
        falls: Whether lower scores are better; they are then above.
    """
    panels = {case: [m for m in scores if m in by_method] for case, by_method in costs.items()}
    panels = {case: methods for case, methods in panels.items() if methods}
    if not panels:
        return None
    shown = [method for method in scores if any(method in each for each in panels.values())]
    missing = ", ".join(method for method in scores if method not in shown)
    styles = {method: style_of(index) for method, index in styles_of(shown).items()}
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(RC_PARAMS):
        width = 1.0 + 4.4 * columns
        handles = legend_handles(styles, width)
        for handle in handles:
            handle.set_linestyle("none")
        head = 0.15 + 0.24 * legend_lines(handles, legend_columns(handles, width))
        note = textwrap.fill(f"cost not measured: {missing}", round(15 * width)) if missing else ""
        total = head + 3.4 * rows + 0.18 * len(note.splitlines())
        figure = new_figure(width, total)
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / total))  # type: ignore[union-attr, call-arg]
        if note:
            figure.supxlabel(note, fontsize=9)
        for number, (case, methods) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, number)
            axes.set_title(case, loc="left")
            _draw(axes, {m: scores[m] for m in methods}, costs[case], styles, falls=falls)
            axes.set_xlabel("time of a step / without a mitigation")
            axes.set_ylabel(label)
        figure.legend(
            handles=handles,
            loc="upper center",
            ncol=legend_columns(handles, width),
            frameon=False,
            borderaxespad=0.2,
        )
        return figure


def _draw(
    axes: Axes,
    scores: Mapping[str, Score],
    costs: Mapping[str, float],
    styles: Mapping[str, tuple[str, Any, str]],
    *,
    falls: bool,
) -> None:
    sign = -1.0 if falls else 1.0
    best = frontier({name: (costs[name], sign * score.middle) for name, score in scores.items()})
    times = [costs[method] for method in scores]
    right = 1.1 * max(times)
    steps = [costs[method] for method in best]
    heights = [scores[method].middle for method in best]
    axes.step([*steps, right], [*heights, heights[-1]], where="post", color="#888888", lw=1.2)
    for method, score in scores.items():
        colour, _, marker = styles[method]
        ends = np.array([[score.middle - score.low], [score.high - score.middle]])
        axes.errorbar(
            costs[method],
            score.middle,
            yerr=None if np.isnan(ends).any() else np.maximum(ends, 0.0),
            color=colour,
            marker=marker,
            ms=7,
            elinewidth=1.2,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )
    if falls:
        axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.1, right)
    axes.minorticks_off()
    is_wide = 1.1 * right / min(times) > WIDE
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def frontier(points: Mapping[str, tuple[float, float]]) -> Sequence[str]:
    """Return the methods that no other beats in cost and score at once, from the cheapest on.

    Args:
        points: Cost (lower is better) and score (higher is better) by method.
    """
    best: list[str] = []
    for method in sorted(points, key=lambda each: (points[each][0], -points[each][1])):
        if not best or points[method][1] > points[best[-1]][1]:
            best.append(method)
    return best
