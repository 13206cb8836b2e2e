"""Map of a sweep: the headline metric over two settings, a panel for each value of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plasticity.scripts.report.arms import (
    Arm,
    best,
    differing_keys,
    plain,
    shared_positions,
    summary,
)
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import factor_of, short_count, with_unit
from plasticity.scripts.report.statistics import Array

MIN_FILLED = 0.5
"""Share of the cells that need runs where more than two settings vary: a random search is no map."""

MAX_PANELS_BESIDE = 4
"""Number of panels that fit side by side."""


@dataclass(frozen=True)
class MapPanel:
    """Values over two settings, at one value of the others."""

    title: str
    """The other settings; empty if only two vary."""

    rows: tuple[float, ...]
    """Values of the vertical setting, ascending."""

    columns: tuple[float, ...]
    """Values of the horizontal setting, ascending."""

    values: Array
    """Values of the cells; NaN where there is none. Shape: (rows, columns)."""

    notes: tuple[tuple[str, ...], ...]
    """Text of a second line in each cell, or "". Shape: (rows, columns)."""

    best: tuple[int, int]
    """Row and column of the cell to outline."""


@dataclass(frozen=True)
class SettingsMap:
    """Values over two settings, in a panel for each value of the others, and those of other methods."""

    title: str
    """Title above the map."""

    label: str
    """Label of the colour bar, with the unit."""

    row_label: str
    """Name of the vertical setting."""

    column_label: str
    """Name of the horizontal setting."""

    panels: tuple[MapPanel, ...]
    """Panels in the order of their settings."""

    num_columns: int
    """Number of panels side by side."""

    references: tuple[tuple[str, float], ...]
    """Names and values to compare the map with."""

    @property
    def finite(self) -> tuple[float, ...]:
        """Values of all cells that have one, and of the references, which share a scale of colours."""
        cells = [
            value for panel in self.panels for value in panel.values[np.isfinite(panel.values)]
        ]
        return (*map(float, cells), *(value for _, value in self.references))


def settings_map(comparison: Comparison) -> SettingsMap | None:
    """Return the headline metric over two settings, of the first method that was swept over two or more.

    Of several settings, the two with the most values span the panels. They have to be numbers.

    Returns:
        The map, or None if there is no such method, no value, or, of more than two settings, if less than
        half of the cells were run.
    """
    for chosen in comparison.chosen:
        arms = comparison.arms_of(chosen.method)
        keys = differing_keys([arm.settings for arm in arms])
        axes = _axes(arms, keys)
        if axes is not None:
            return _map_of(comparison, chosen, axes, [key for key in keys if key not in axes])
    return None


def _axes(arms: Sequence[Arm], keys: Sequence[str]) -> tuple[str, str] | None:
    """Return the vertical and the horizontal setting, in their usual order."""
    values = {key: {plain(arm.settings.get(key)) for arm in arms} for key in keys}
    numbers = [key for key in keys if all(_is_number(arm.settings.get(key)) for arm in arms)]
    longest = sorted(numbers, key=lambda key: -len(values[key]))[:2]
    if len(longest) < 2:
        return None
    row, column = (key for key in keys if key in longest)
    return row, column


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _map_of(
    comparison: Comparison, chosen: Arm, axes: tuple[str, str], others: Sequence[str]
) -> SettingsMap | None:
    measure = _Measure(comparison)
    groups: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in comparison.arms_of(chosen.method):
        groups.setdefault(tuple(plain(arm.settings.get(key)) for key in others), []).append(arm)
    panels = []
    for values, members in groups.items():
        named = zip(map(_spaced, others), values, strict=True)
        panels.append(_panel(measure, members, axes, ", ".join(map(" ".join, named))))
    cells = sum(panel.values.size for panel in panels)
    filled = len(comparison.arms_of(chosen.method)) / cells
    if not any(np.isfinite(panel.values).any() for panel in panels):
        return None
    if others and filled < MIN_FILLED:
        return None
    compared = [arm for arm in comparison.chosen if arm is not chosen]
    references = [(arm.label.replace(" (", "\n("), measure.value(arm)) for arm in compared]
    return SettingsMap(
        title=f"{chosen.method}, {measure.when}",
        label=with_unit(comparison.headline),
        row_label=_spaced(axes[0]),
        column_label=_spaced(axes[1]),
        panels=tuple(panels),
        num_columns=min(MAX_PANELS_BESIDE, len({values[-1:] for values in groups})),
        references=tuple(each for each in references if math.isfinite(each[1])),
    )


def _spaced(key: str) -> str:
    return key.replace("_", " ")


class _Measure:
    """The headline metric of arms, at positions that all complete ones share."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._complete = [arm for arm in comparison.arms if not arm.unfinished]
        arms = self._complete or comparison.arms
        self._positions = shared_positions(arms, comparison.headline)

    def value(self, arm: Arm) -> float:
        """Return the mean over seeds; NaN if there is none, or if the arm alone is unfinished."""
        comparison = self._comparison
        found = summary(arm, comparison.headline, comparison.confidence, self._positions)[
            comparison.moment
        ]
        if found is None or (self._complete and arm.unfinished):
            return math.nan
        return factor_of(comparison.headline) * found.mean

    def best(self, arms: Sequence[Arm]) -> Arm:
        """Return the best arm."""
        return best(arms, self._comparison.headline, self._comparison.moment)

    @property
    def when(self) -> str:
        """Description of where the values are taken."""
        axis, skip = self._comparison.axis, self._comparison.skip
        last = self._positions[-1]
        if self._comparison.moment == "last":
            return f"{axis.name} {axis.text(last)}"
        averaged = sum(each >= skip for each in self._positions) if axis.is_dense else last - skip
        after = f" after {axis.first(skip)}" if skip else ""
        plural = "s" if averaged > 1 else ""
        return f"average over {short_count(averaged)} {axis.name}{plural}{after}"


def _panel(measure: _Measure, arms: Sequence[Arm], axes: tuple[str, str], title: str) -> MapPanel:
    cells = {(float(arm.settings[axes[0]]), float(arm.settings[axes[1]])): arm for arm in arms}
    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}))
    grid = [[cells.get((row, column)) for column in columns] for row in rows]
    chosen = measure.best(arms)
    row, column = next(cell for cell, arm in cells.items() if arm is chosen)
    return MapPanel(
        title=title,
        rows=rows,
        columns=columns,
        values=np.array(
            [[math.nan if arm is None else measure.value(arm) for arm in row] for row in grid]
        ),
        notes=tuple(tuple(_remark(arm) for arm in row) for row in grid),
        best=(rows.index(row), columns.index(column)),
    )


def _remark(arm: Arm | None) -> str:
    if arm is None:
        return "not run"
    if arm.unfinished:
        return "unfinished"
    return f"{len(arm.diverged)} of {len(arm.runs)} div." if arm.diverged else ""
