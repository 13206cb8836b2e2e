"""Which figures a report has, and what is drawn in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from plasticity.scripts.arms import Arm, matrix, shared_positions, summary
from plasticity.scripts.benchmarks import METHODS
from plasticity.scripts.comparison import Comparison
from plasticity.scripts.figures import Line, Panel, SettingsMap, map_figure, panels_figure
from plasticity.scripts.metric_names import (
    NORMS,
    RANKS,
    TOTAL,
    UNITS,
    family_of,
    headlines,
    in_words,
    is_percent,
    layer_of,
)
from plasticity.scripts.statistics import bands

MAX_COLUMNS = 4


def draw_figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw all that the runs give something for.

    Returns:
        By name: accuracy (progress, where there is none), ranks, units, norms, map.
    """
    layerless = [name for name in headlines(comparison.metrics) if not layer_of(name)]
    leading = "accuracy" if any(name.endswith("_accuracy") for name in layerless) else "progress"
    grids = {
        leading: [_panels(comparison, layerless)] if layerless else [],
        "ranks": _family_rows(comparison, RANKS),
        "units": _family_rows(comparison, UNITS),
        "norms": _family_rows(comparison, NORMS),
    }
    note = _note(comparison)
    figures = {
        name: panels_figure(_wrapped(rows), comparison.axis, note)
        for name, rows in grids.items()
        if rows
    }
    settings = settings_map(comparison)
    if settings is not None:
        figures["map"] = map_figure(settings)
    return figures


def _note(comparison: Comparison) -> str:
    parts = ["thin lines: single seeds"]
    if any(len(arm.started) > 1 for arm in comparison.chosen):
        parts.insert(0, f"band: {100 * comparison.confidence:g} % bootstrap interval of the mean")
    if any(arm.diverged for arm in comparison.chosen):
        parts.append("cross: diverged")
    return "; ".join(parts)


def _family_rows(comparison: Comparison, families: Sequence[str]) -> list[list[Panel]]:
    """A row of panels for each family, its layers in the order of the rows."""
    rows = []
    for family in families:
        members = [name for name in comparison.metrics if family_of(name) == family]
        if f"{family}/{TOTAL}" in members:
            members = [f"{family}/{TOTAL}"]  # a panel for every parameter would bury it
        if members:
            rows.append(_panels(comparison, members))
    packed: list[list[Panel]] = []
    for row in rows:  # a row of one panel joins another's
        alone = bool(packed) and min(len(row), len(packed[-1])) == 1
        if alone and len(row) + len(packed[-1]) <= MAX_COLUMNS:
            packed[-1] += row
        else:
            packed.append(row)
    return packed


def _wrapped(rows: Sequence[Sequence[Panel]]) -> list[list[Panel]]:
    return [
        list(row[start : start + MAX_COLUMNS])
        for row in rows
        for start in range(0, len(row), MAX_COLUMNS)
    ]


def _panels(comparison: Comparison, metrics: Sequence[str]) -> list[Panel]:
    return [_panel(comparison, metric) for metric in metrics]


def _panel(comparison: Comparison, metric: str) -> Panel:
    family, layer = family_of(metric), layer_of(metric)
    words = in_words(family)
    if family.endswith("_accuracy"):
        label = "accuracy (%)"
    elif family.endswith("_fraction"):
        label = f"{words.removesuffix(' fraction')} units (%)"
    elif family in RANKS:
        label = f"{words} (dimensions)"
    elif family in NORMS:
        label = f"{words} (L2)"
    else:
        label = words
    return Panel(
        title="all parameters" if layer == TOTAL else layer or words,
        label=label,
        lines=tuple(
            _line(comparison, arm, metric) for arm in comparison.chosen if metric in arm.metrics
        ),
        from_zero=bool(layer),
        top=100.0 if is_percent(metric) else None,
    )


def _line(comparison: Comparison, arm: Arm, metric: str) -> Line:
    factor = 100.0 if is_percent(metric) else 1.0
    mean, low, high = bands(factor * matrix(arm, metric, arm.positions), comparison.confidence)
    seeds = []
    for run in arm.started:
        positions = sorted(run.by_position)
        values = [run.value(metric, position) for position in positions]
        seeds.append((np.array(positions, float), factor * np.array(values, dtype=float)))
    return Line(
        label=arm.label,
        style=_style(comparison, arm),
        positions=np.array(arm.positions, dtype=float),
        mean=mean,
        low=low,
        high=high,
        seeds=tuple(seeds),
        diverged=tuple(run.diverged_at is not None for run in arm.started),
    )


def _style(comparison: Comparison, arm: Arm) -> int:
    """A known method looks the same in every report; others take what is left."""
    known = list(METHODS)
    if arm.method in known:
        return known.index(arm.method)
    unknown = [each.method for each in comparison.chosen if each.method not in known]
    return len(known) + unknown.index(arm.method)


# ---- the map ----------------------------------------------------------------------------------------


def settings_map(comparison: Comparison) -> SettingsMap | None:
    """The headline metric over strength × sigma, of the first method that was run over both.

    Returns:
        None if no method was, or if its arms differ in other settings too.
    """
    for chosen in comparison.chosen:
        arms = [arm for arm in comparison.arms if arm.method == chosen.method]
        cells = {_place(arm): arm for arm in arms}
        lengths = [len({place[axis] for place in cells}) for axis in (0, 1)]
        uses_both = chosen.method not in METHODS or (
            METHODS[chosen.method].uses_strength and METHODS[chosen.method].uses_sigma
        )
        if uses_both and min(lengths) > 1 and len(cells) == len(arms):
            return _map_of(comparison, chosen, cells)
    return None


def _place(arm: Arm) -> tuple[float, float]:
    return float(arm.settings.get("strength", math.nan)), float(arm.settings.get("sigma", math.nan))


def _map_of(
    comparison: Comparison, chosen: Arm, cells: dict[tuple[float, float], Arm]
) -> SettingsMap | None:
    metric = comparison.headline
    complete = [arm for arm in comparison.arms if not arm.unfinished]
    where = shared_positions(complete or comparison.arms)
    factor = 100.0 if is_percent(metric) else 1.0

    def last(arm: Arm) -> float:
        found = summary(arm, metric, comparison.confidence, where)["last"]
        return math.nan if found is None or (complete and arm.unfinished) else factor * found.mean

    strengths = tuple(sorted({strength for strength, _ in cells}))
    sigmas = tuple(sorted({sigma for _, sigma in cells}))
    grid = [[cells.get((strength, sigma)) for sigma in sigmas] for strength in strengths]
    values = np.array([[math.nan if arm is None else last(arm) for arm in row] for row in grid])
    if not np.isfinite(values).any():
        return None
    others = [arm for arm in comparison.chosen if arm is not chosen]
    references = [(arm.label.replace(" (", "\n("), last(arm)) for arm in others]
    unit = " (%)" if is_percent(metric) else ""
    return SettingsMap(
        title=f"{chosen.method}, {comparison.axis} {where[-1]}",
        label=f"{in_words(metric)}{unit}",
        rows=strengths,
        columns=sigmas,
        row_label="strength",
        column_label="sigma (anchor's spread, relative to the initialisation)",
        values=values,
        notes=tuple(tuple(_remark(arm) for arm in row) for row in grid),
        best=(strengths.index(_place(chosen)[0]), sigmas.index(_place(chosen)[1])),
        references=tuple((name, value) for name, value in references if math.isfinite(value)),
    )


def _remark(arm: Arm | None) -> str:
    if arm is None:
        return "not run"
    if arm.unfinished:
        return "unfinished"
    return f"{len(arm.diverged)} of {len(arm.runs)} div." if arm.diverged else ""
