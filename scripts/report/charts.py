"""Data of the page's interactive charts: values of every run, as JSON. `charts.js` draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.special import stdtrit

from plasticity.scripts.report.across import Across
from plasticity.scripts.report.arms import Arm
from plasticity.scripts.report.axis import TASK
from plasticity.scripts.report.captions import TITLES, caption
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.contents import (
    group_of,
    panel_of,
    run_values,
    styles_of,
    task_panels,
    task_values,
)
from plasticity.scripts.report.metric_names import (
    family_of,
    in_words,
    is_percent,
    is_share,
    layer_of,
)
from plasticity.scripts.report.panels import Panel, style_of
from plasticity.scripts.report.settings_map import SEPARATOR, MapPanel, SettingsMap, settings_map
from plasticity.scripts.report.statistics import Array
from plasticity.scripts.report.tables import decimals_of

MAX_NUMBERS = 100_000
"""Numbers that a page holds at most, about 700 kB: of longer runs rows are left out."""

FEWEST_POSITIONS = 50
"""Number of rows down to which a line is never thinned."""

SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "triangle-right",
}
"""Vega's markers, by matplotlib's."""

DIGITS = 5
"""Significant digits of the numbers: more than any table shows."""


def page_data(comparisons: Sequence[Comparison], found: Across | None) -> dict[str, Any]:
    """Return all that the charts are drawn from.

    Args:
        comparisons: Comparisons, one per benchmark.
        found: Scores on all of them, if there are several.
    """
    methods = [arm.method for comparison in comparisons for arm in comparison.chosen]
    styles = styles_of(methods)
    most = max(len(arm.runs) for comparison in comparisons for arm in comparison.chosen)
    total = sum(
        len(run.rows) * len(comparison.chosen_metrics)
        for comparison in comparisons
        for arm in comparison.chosen
        for run in arm.started
    )
    stride = max(1, math.ceil(total / MAX_NUMBERS))
    first = comparisons[0]
    confidence = first.confidence
    return {
        "confidence": confidence,
        "t": [None, None, *(_rounded(_t(seeds, confidence)) for seeds in range(2, most + 1))],
        "stride": stride,
        "titles": TITLES,
        "first": in_words(family_of(first.leading_metrics[0])),
        "methods": [{"name": method, **_style(index)} for method, index in styles.items()],
        "benchmarks": [_benchmark(comparison, stride) for comparison in comparisons],
        "profile": None if found is None else _profile(found),
    }


def as_json(data: dict[str, Any]) -> str:
    """Return the data as JSON that may stand inside an HTML script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _t(seeds: int, confidence: float) -> float:
    """Return the factor of the standard error in a t interval of a mean over seeds."""
    return float(stdtrit(seeds - 1, (1.0 + confidence) / 2.0))


def _style(index: int) -> dict[str, Any]:
    colour, dash, marker = style_of(index)
    pattern = [] if dash == "-" else [2 * length for length in dash[1]]
    # Black follows the colour of the text, which is white in dark mode.
    colour = "currentColor" if colour == "#000000" else colour
    return {"colour": colour, "dash": pattern or [1, 0], "shape": SHAPES[marker]}


# ---- one benchmark ----------------------------------------------------------------------------------


def _benchmark(comparison: Comparison, stride: int) -> dict[str, Any]:
    positions = _Positions(stride)
    charts = [_metric_chart(comparison, name, positions) for name in comparison.chosen_metrics]
    charts += _task_charts(comparison, positions)
    settings = settings_map(comparison)
    return {
        "name": comparison.benchmark,
        "captions": {chart["group"]: caption(comparison, chart["group"]) for chart in charts},
        "charts": charts,
        "positions": positions.unique,
        "map": None if settings is None else _map(settings),
    }


class _Positions:
    """Positions of lines, each list of them once."""

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.unique: list[list[int]] = []

    def line(self, arm: Arm, positions: Array, values: Array) -> dict[str, Any]:
        """Return a line of an arm: all of its runs, NaN where there is no value."""
        kept = self._kept(len(positions))
        where = [int(position) for position in positions[kept]]
        if where not in self.unique:
            self.unique.append(where)
        return {
            "method": arm.method,
            "label": arm.label,
            "positions": self.unique.index(where),
            "runs": [[_rounded(value) for value in row[kept]] for row in values],
            "seeds": [run.seed for run in arm.started],
            "diverged": [run in arm.diverged for run in arm.started],
        }

    def _kept(self, count: int) -> list[int]:
        stride = min(self.stride, max(1, count // FEWEST_POSITIONS))
        kept = list(range(0, count, stride))
        return kept if not count or kept[-1] == count - 1 else [*kept, count - 1]


def _metric_chart(comparison: Comparison, metric: str, positions: _Positions) -> dict[str, Any]:
    arms = [arm for arm in comparison.chosen if metric in arm.metrics]
    lines = [positions.line(arm, *run_values(comparison, arm, metric)) for arm in arms]
    return {
        "metric": in_words(family_of(metric)),
        "layer": layer_of(metric),
        "group": group_of(metric),
        "axis": comparison.axis.name,
        "share": is_share(metric),
        **_frame(panel_of(comparison, metric), lines, percent=is_percent(metric)),
    }


def _task_charts(comparison: Comparison, positions: _Positions) -> list[dict[str, Any]]:
    charts = []
    arms = [arm for arm in comparison.chosen if arm.tasks]
    for panel, baseline in zip(
        (panel for row in task_panels(comparison) for panel in row),
        (None, comparison.baseline),
        strict=False,
    ):
        known = {line.label for line in panel.lines}
        shown = [arm for arm in arms if arm.label in known]
        lines = [positions.line(arm, *task_values(arm, baseline)) for arm in shown]
        name = panel.title.replace("the same", "episode return per task")
        charts.append(
            {
                "metric": name,
                "layer": "",
                "group": "tasks",
                "axis": TASK,
                "share": False,
                **_frame(panel, lines, percent=False),
            }
        )
    return charts


def _frame(panel: Panel, lines: list[dict[str, Any]], *, percent: bool) -> dict[str, Any]:
    finite = [abs(value) for value in _values(lines) if value is not None]
    size = max(finite, default=0.0)
    return {
        "label": panel.label,
        "decimals": decimals_of(size, percent=percent),
        "zero": panel.from_zero,
        "top": panel.top,
        "bottom": panel.bottom,
        "marks": list(map(int, panel.marks)),
        "lines": lines,
    }


def _values(lines: Iterable[dict[str, Any]]) -> Iterable[float | None]:
    return (value for line in lines for row in line["runs"] for value in row)


def _map(settings: SettingsMap) -> dict[str, Any]:
    return {
        "title": settings.title,
        "label": settings.label,
        "row": settings.row_label,
        "column": settings.column_label,
        "panels": [
            {"title": panel.title.split(SEPARATOR), "cells": _cells(panel)}
            for panel in settings.panels
        ],
        "decimals": settings.decimals,
        "domain": [_rounded(min(settings.finite)), _rounded(max(settings.finite))],
    }


def _cells(panel: MapPanel) -> list[dict[str, Any]]:
    return [
        {
            "row": row,
            "column": column,
            "value": _rounded(panel.values[i, j]),
            "note": panel.notes[i][j],
            "best": (i, j) == panel.best,
        }
        for i, row in enumerate(panel.rows)
        for j, column in enumerate(panel.columns)
    ]


# ---- all benchmarks ---------------------------------------------------------------------------------


def _profile(found: Across) -> dict[str, Any]:
    thresholds, shares = found.profiles
    lines = []
    for method, curves in shares.items():
        percents = {
            name: [_rounded(100 * each) for each in curve]
            for name, curve in zip(("mean", "low", "high"), curves, strict=True)
        }
        lines.append({"method": method, "label": method, **percents})
    return {"positions": [_rounded(each) for each in thresholds], "lines": lines}


def _rounded(value: float) -> float | int | None:
    """Return a number in as many digits as are drawn; None where there is none."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
