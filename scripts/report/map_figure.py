"""Heat maps of a sweep: values over two settings, and those of other methods beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plasticity.scripts.config.nested import shortest
from plasticity.scripts.report.panels import RC_PARAMS, new_figure
from plasticity.scripts.report.settings_map import SEPARATOR, MapPanel, SettingsMap
from plasticity.scripts.report.statistics import Array

CELL = (0.95, 0.62)
"""Width and height of a cell in inches."""

LETTER = (0.085, 0.17)
"""Width of a letter of a title and height of its line in inches."""


def map_figure(settings: SettingsMap) -> Figure:
    """Draw heat maps of two settings, with the references beside them on the same scale.

    Args:
        settings: Map to draw.

    Raises:
        ValueError: if no cell has a value.
    """
    finite = settings.finite
    if len(finite) == len(settings.references):
        raise ValueError("A map needs at least one cell with a value.")
    scale = Normalize(min(finite), max(finite) if max(finite) > min(finite) else min(finite) + 1)
    wide = settings.num_columns
    high = math.ceil(len(settings.panels) / wide)
    titles, width = _titles(settings)
    num_breaks = max(title.count("\n") for title in titles)
    num_rows = max(len(panel.rows) for panel in settings.panels)
    side = _references_width(settings.references)
    height = max(high * (num_rows + 1) - 1, len(settings.references))  # in cells
    with mpl.rc_context({**RC_PARAMS, "axes.grid": False}):
        figure = new_figure(
            2.4 + wide * width + 0.7 * (wide - 1) + side,
            1.5 + 0.3 * (high - 1) + LETTER[1] * num_breaks * high + CELL[1] * height,
        )
        ratios = [width] * wide + ([side] if settings.references else [])
        grid = figure.add_gridspec(high, len(ratios), width_ratios=ratios)
        beside = []
        for index, panel in enumerate(settings.panels):
            axes = figure.add_subplot(grid[divmod(index, wide)])
            image = _draw_panel(axes, panel, scale, settings.decimals)
            axes.set_title(titles[index], loc="left")
            axes.set_xlabel(settings.column_label)
            axes.set_ylabel(settings.row_label)
            beside.append(axes)
        if len(settings.panels) > 1:
            figure.suptitle(settings.title, x=0.01, ha="left", fontsize=10)
        if settings.references:
            beside.append(figure.add_subplot(grid[:, wide]))
            _draw_references(beside[-1], settings, scale, height)
        bar = figure.colorbar(image, ax=beside, pad=0.02, aspect=28)
        bar.set_label(settings.label)
        bar.outline.set_visible(False)
        return figure


def _titles(settings: SettingsMap) -> tuple[list[str], float]:
    """Return the title of each panel, in lines, and the width of panels in inches, in which they fit."""
    parts = [panel.title.split(SEPARATOR) for panel in settings.panels]
    if len(parts) == 1:
        parts = [[settings.title]]
    width = max(CELL[0] * len(panel.columns) for panel in settings.panels)
    width = max(width, LETTER[0] * max(len(part) for title in parts for part in title))
    return [_wrapped(title, width) for title in parts], width


def _wrapped(parts: Sequence[str], width: float) -> str:
    """Return a title in lines of at most a width in inches, if its parts are as short as that."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}{SEPARATOR}{part}"
        if LETTER[0] * len(longer) <= width:
            lines[-1] = longer
        else:
            lines[-1] += SEPARATOR.rstrip()
            lines.append(part)
    return "\n".join(lines)


def _draw_panel(axes: Axes, panel: MapPanel, scale: Normalize, decimals: int) -> Any:
    image = _draw_cells(axes, panel.values, panel.notes, scale, decimals)
    axes.set_xticks(range(len(panel.columns)), [shortest(value) for value in panel.columns])
    axes.set_yticks(range(len(panel.rows)), [shortest(value) for value in panel.rows])
    if panel.best is not None:
        row, column = panel.best
        corner = (column - 0.46, row - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, ec="#D55E00", lw=3, zorder=5))
    return image


def _references_width(references: Sequence[tuple[str, float]]) -> float:
    """Return the width of the references' cells in inches, in which their longest line fits."""
    if not references:
        return 0.0
    longest = max(len(line) for name, _ in references for line in name.splitlines())
    return max(1.9, 0.2 + 0.07 * longest)  # at nine points


def _draw_cells(
    axes: Axes, values: Array, notes: Sequence[Sequence[str]], scale: Normalize, decimals: int
) -> Any:
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
        text = "—" if math.isnan(value) else f"{value:.{decimals}f}"
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


def _draw_references(axes: Axes, settings: SettingsMap, scale: Normalize, num_rows: int) -> None:
    references = settings.references
    values = np.array([[value] for _, value in references][::-1])
    names = [[name] for name, _ in references][::-1]
    _draw_cells(axes, values, names, scale, settings.decimals)
    axes.set_ylim(
        len(references) - 0.5 - num_rows, len(references) - 0.5
    )  # cells of the same height as the map's
    axes.set_facecolor("white")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("the others, at their best", loc="left")
