"""Map of a sweep: the headline metric over two settings, a panel for each value of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity.scripts.report.arms import (
    Arm,
    differing_keys,
    numbers_of,
    plain,
    shared_positions,
    values_at,
)
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import (
    factor_of,
    is_better_lower,
    is_percent,
    short_count,
    with_unit,
)
from plasticity.scripts.report.statistics import Array
from plasticity.scripts.report.tables import decimals_of

MIN_FILLED = 0.5
"""Share of the cells of all panels that need runs where more than two settings vary: a random search is no
map."""

SEPARATOR = ", "
"""Text between the settings in the title of a panel."""

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

    best: tuple[int, int] | None
    """Row and column of the cell to outline; None if no cell has a value."""


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

    percent: bool
    """Whether the values are in per cent."""

    references: tuple[tuple[str, float], ...]
    """Names and values to compare the map with."""

    @property
    def finite(self) -> tuple[float, ...]:
        """Values of all cells that have one, and of the references, which share a scale of colours."""
        cells = [
            value for panel in self.panels for value in panel.values[np.isfinite(panel.values)]
        ]
        return (*map(float, cells), *(value for _, value in self.references))

    @property
    def decimals(self) -> int:
        """Number of decimals of the values."""
        return decimals_of(max(map(abs, self.finite)), percent=self.percent)


def settings_map(comparison: Comparison) -> SettingsMap | None:
    """Return the headline metric over two settings, of the first method whose sweep is a map.

    Of several settings, the two with the most values span the panels. They have to be numbers.

    Returns:
        The map, or None if no method has two settings, a value, and, of more than two settings, runs in
        half of the cells of all panels, each with every value of the two.
    """
    for chosen in comparison.chosen:
        arms = comparison.arms_of(chosen.method)
        keys = differing_keys([arm.settings for arm in arms])
        axes = _axes(arms, keys)
        others = [key for key in keys if axes is not None and key not in axes]
        found = None if axes is None else _map_of(comparison, chosen, axes, others)
        if found is not None:
            return found
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
    arms, measure = comparison.arms_of(chosen.method), _Measure(comparison)
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in sorted(arms, key=lambda arm: [_place(arm.settings.get(key)) for key in others]):
        groups.setdefault(tuple(plain(arm.settings.get(key)) for key in others), []).append(arm)
    sizes = [len({arm.settings[axis] for arm in arms}) for axis in axes]
    if others and len(arms) < MIN_FILLED * math.prod(sizes) * len(groups):
        return None
    panels = []
    for values, members in groups.items():
        named = zip(map(_spaced, others), values, strict=True)
        panels.append(_panel(measure, members, axes, SEPARATOR.join(map(" ".join, named))))
    if not any(np.isfinite(panel.values).any() for panel in panels):
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
        percent=is_percent(comparison.headline),
        references=tuple(each for each in references if math.isfinite(each[1])),
    )


def _place(value: object) -> tuple[list[float], str]:
    """Return what a value of a setting is sorted by: its numbers, and its text where it is none."""
    return numbers_of(value), plain(value)


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
        if self._complete and arm.unfinished:
            return math.nan
        every = values_at(arm, comparison.headline, comparison.moment, self._positions).values()
        known = [value for value in every if value is not None]
        return factor_of(comparison.headline) * float(np.mean(known)) if known else math.nan

    def is_lower_better(self) -> bool:
        """Return whether lower values are better."""
        return is_better_lower(self._comparison.headline)

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
    values = {cell: measure.value(arm) for cell, arm in cells.items()}
    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}))
    known = [cell for cell, value in values.items() if math.isfinite(value)]
    sound = [cell for cell in known if not cells[cell].diverged]
    choose = min if measure.is_lower_better() else max
    best = choose(sound or known, key=values.__getitem__, default=None)
    return MapPanel(
        title=title,
        rows=rows,
        columns=columns,
        values=np.array(
            [[values.get((row, column), math.nan) for column in columns] for row in rows]
        ),
        notes=tuple(tuple(_remark(cells.get((row, column))) for column in columns) for row in rows),
        best=None if best is None else (rows.index(best[0]), columns.index(best[1])),
    )


def _remark(arm: Arm | None) -> str:
    if arm is None:
        return "not run"
    if arm.unfinished:
        return "unfinished"
    return f"{len(arm.diverged)} of {len(arm.runs)} div." if arm.diverged else ""
