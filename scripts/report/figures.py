"""Map of a sweep: values over two settings, and those of other methods beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plasticity.scripts.config.nested import shortest
from plasticity.scripts.report.arms import Arm, differing_keys, shared_positions, summary
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.metric_names import factor_of, short_count, with_unit
from plasticity.scripts.report.panels import RC_PARAMS, new_figure
from plasticity.scripts.report.statistics import Array


@dataclass(frozen=True)
class SettingsMap:
    """Values over two settings, and those of other methods beside them."""

    title: str
    """Title above the map."""

    label: str
    """Label of the colour bar, with the unit."""

    rows: tuple[float, ...]
    """Values of the vertical setting, ascending."""

    columns: tuple[float, ...]
    """Values of the horizontal setting, ascending."""

    row_label: str
    """Name of the vertical setting."""

    column_label: str
    """Name of the horizontal setting."""

    values: Array
    """Values of the cells; NaN where there is none. Shape: (rows, columns)."""

    notes: tuple[tuple[str, ...], ...]
    """Text of a second line in each cell, or "". Shape: (rows, columns)."""

    best: tuple[int, int]
    """Row and column of the cell to outline."""

    references: tuple[tuple[str, float], ...]
    """Names and values to compare the map with."""


def map_figure(settings: SettingsMap) -> Figure:
    """Draw a heat map of two settings, with the references beside it on the same scale.

    Args:
        settings: Map to draw.

    Raises:
        ValueError: if no cell has a value.
    """
    finite = settings.values[np.isfinite(settings.values)]
    if finite.size == 0:
        raise ValueError("A map needs at least one cell with a value.")
    every = [*finite, *(value for _, value in settings.references)]
    scale = Normalize(min(every), max(every) if max(every) > min(every) else min(every) + 1)
    num_rows, num_columns = settings.values.shape
    with mpl.rc_context({**RC_PARAMS, "axes.grid": False}):
        side = _references_width(settings.references)
        longest = max(num_rows, len(settings.references))
        figure = new_figure(2.4 + 0.95 * num_columns + side, 1.5 + 0.62 * longest)
        ratios = [0.95 * num_columns, side] if settings.references else [1.0]
        grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
        axes = figure.add_subplot(grid[0, 0])
        image = _draw_cells(axes, settings.values, settings.notes, scale)
        axes.set_xticks(range(num_columns), [shortest(value) for value in settings.columns])
        axes.set_yticks(range(num_rows), [shortest(value) for value in settings.rows])
        axes.set_xlabel(settings.column_label)
        axes.set_ylabel(settings.row_label)
        axes.set_title(settings.title, loc="left")
        row, column = settings.best
        corner = (column - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, ec="#D55E00", lw=3, zorder=5))
        beside = [axes]
        if settings.references:
            beside.append(figure.add_subplot(grid[0, 1]))
            _draw_references(beside[1], settings.references, scale, longest)
        bar = figure.colorbar(image, ax=beside, pad=0.02, aspect=28)
        bar.set_label(settings.label)
        bar.outline.set_visible(False)
        return figure


def _references_width(references: Sequence[tuple[str, float]]) -> float:
    """Return the width of the references' cells in inches, in which their longest line fits."""
    if not references:
        return 0.0
    longest = max(len(line) for name, _ in references for line in name.splitlines())
    return max(1.9, 0.2 + 0.07 * longest)  # at nine points


def _draw_cells(axes: Axes, values: Array, notes: Sequence[Sequence[str]], scale: Normalize) -> Any:
    image = axes.imshow(values, cmap="cividis", norm=scale, aspect="auto", origin="lower")
    axes.set_facecolor("#F2F2F2")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    rows, columns = values.shape
    for edge in range(1, columns):
        axes.axvline(edge - 0.5, color="white", lw=2)
    for edge in range(1, rows):
        axes.axhline(edge - 0.5, color="white", lw=2)
    for (row, column), value in np.ndenumerate(values):
        note = notes[row][column]
        text = "—" if math.isnan(value) else f"{value:.1f}"
        colour = "black" if math.isnan(value) else readable(image.cmap(scale(value)))
        axes.text(column, row + (0.14 if note else 0), text, ha="center", va="center", color=colour)
        if note:
            axes.text(column, row - 0.24, note, ha="center", va="center", color=colour, fontsize=9)
    return image


def readable(background: Sequence[float]) -> str:
    """Return black or white, whichever contrasts more with the background (WCAG's relative luminance)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]
    )
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _draw_references(
    axes: Axes, references: Sequence[tuple[str, float]], scale: Normalize, num_rows: int
) -> None:
    values = np.array([[value] for _, value in references][::-1])
    names = [[name] for name, _ in references][::-1]
    _draw_cells(axes, values, names, scale)
    axes.set_ylim(
        len(references) - 0.5 - num_rows, len(references) - 0.5
    )  # cells of the same height as the map's
    axes.set_facecolor("white")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("the others, at their best", loc="left")


# ---- its contents ----------------------------------------------------------------------------------------


def settings_map(comparison: Comparison) -> SettingsMap | None:
    """Return the headline metric over two settings, of the first method with a sweep over two.

    Returns:
        The map, or None if no method's arms differ in exactly two settings, both of them numbers.
    """
    for chosen in comparison.chosen:
        arms = comparison.arms_of(chosen.method)
        keys = differing_keys([arm.settings for arm in arms])
        if len(keys) == 2 and all(
            _is_number(arm.settings.get(key)) for arm in arms for key in keys
        ):
            return _map_of(comparison, chosen, arms, keys)
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _map_of(
    comparison: Comparison, chosen: Arm, arms: Sequence[Arm], keys: Sequence[str]
) -> SettingsMap | None:
    row_key, column_key = keys
    cells = {(float(arm.settings[row_key]), float(arm.settings[column_key])): arm for arm in arms}
    metric = comparison.headline
    complete = [arm for arm in comparison.arms if not arm.unfinished]
    where = shared_positions(complete or comparison.arms, metric)
    factor, moment = factor_of(metric), comparison.moment

    def value(arm: Arm) -> float:
        found = summary(arm, metric, comparison.confidence, where)[moment]
        return math.nan if found is None or (complete and arm.unfinished) else factor * found.mean

    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}))
    grid = [[cells.get((row, column)) for column in columns] for row in rows]
    best = next(cell for cell, arm in cells.items() if arm is chosen)
    values = np.array([[math.nan if arm is None else value(arm) for arm in row] for row in grid])
    if not np.isfinite(values).any():
        return None
    others = [arm for arm in comparison.chosen if arm is not chosen]
    references = [(arm.label.replace(" (", "\n("), value(arm)) for arm in others]
    return SettingsMap(
        title=f"{chosen.method}, {_when(comparison, where)}",
        label=with_unit(metric),
        rows=rows,
        columns=columns,
        row_label=row_key.replace("_", " "),
        column_label=column_key.replace("_", " "),
        values=values,
        notes=tuple(tuple(_remark(arm) for arm in row) for row in grid),
        best=(rows.index(best[0]), columns.index(best[1])),
        references=tuple(each for each in references if math.isfinite(each[1])),
    )


def _when(comparison: Comparison, positions: Sequence[int]) -> str:
    """Return where the values of a map are taken."""
    axis, skip = comparison.axis, comparison.skip
    last = positions[-1]
    if comparison.moment == "last":
        return f"{axis.name} {axis.text(last)}"
    averaged = sum(each >= skip for each in positions) if axis.is_dense else last - skip
    after = f" after {axis.first(skip)}" if skip else ""
    return f"average over {short_count(averaged)} {axis.name}{'s' if averaged > 1 else ''}{after}"


def _remark(arm: Arm | None) -> str:
    if arm is None:
        return "not run"
    if arm.unfinished:
        return "unfinished"
    return f"{len(arm.diverged)} of {len(arm.runs)} div." if arm.diverged else ""
