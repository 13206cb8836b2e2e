"""Panels, heat maps and pictures in a grid, drawn as PNG: lines over tasks or steps with bands.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish; each has its own dash pattern
and marker, which stay distinct in greyscale. Nothing here touches pyplot's global state.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from plasticity.scripts.config.nested import shortest
from plasticity.scripts.report.legend import legend_columns, legend_handles, legend_lines
from plasticity.scripts.report.metric_names import short_count
from plasticity.scripts.report.statistics import Array

STYLES: tuple[tuple[str, Any, str], ...] = (
    ("#000000", (0, (1, 1.2)), "o"),
    ("#E69F00", (0, (5, 1.5)), "s"),
    ("#0072B2", "-", "^"),
    ("#009E73", (0, (6, 1.5, 1, 1.5)), "D"),
    ("#CC79A7", (0, (3, 1, 1, 1, 1, 1)), "v"),
    ("#D55E00", (0, (8, 2)), "P"),
    ("#56B4E9", (0, (2, 1)), "X"),
)
"""Colour, dash pattern and marker of the first, second, … line; those after the last are in `style_of`."""

DOTS_PER_INCH = 160
MARKERS_PER_LINE = 7
FAINT = 0.3
MAX_SEED_LINES = 80  # in a panel: more of them hide the means
NOTE_CHARACTERS_PER_INCH = 14  # at nine points
THOUSANDS = 10_000  # from here on, the horizontal axis is labelled in thousands

RC_PARAMS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": True,
    "text.parse_math": False,  # a folder's name may have dollar signs
}
"""Settings of matplotlib under which all figures are made."""


@dataclass(frozen=True)
class Line:
    """Line of one arm in one panel."""

    label: str
    """Label in the legend; lines of the same label share an entry."""

    style: int
    """Index of its `style_of`."""

    positions: Array
    """Positions at which the mean is known. Shape: (positions,)."""

    mean: Array
    """Mean over seeds. Shape: (positions,)."""

    low: Array
    """Lower end of the interval; NaN where there is none. Shape: (positions,)."""

    high: Array
    """Upper end of the interval; NaN where there is none. Shape: (positions,)."""

    seeds: tuple[tuple[Array, Array], ...]
    """Positions and values of each seed, as far as its run goes; values are NaN once it diverged."""

    diverged: tuple[bool, ...]
    """Whether each seed diverged; if so, its line ends in a cross."""


@dataclass(frozen=True)
class Panel:
    """Contents of one pair of axes."""

    title: str
    """Title above the panel."""

    label: str
    """Label of the vertical axis, with the unit."""

    lines: tuple[Line, ...]
    """Lines of the arms."""

    from_zero: bool = False
    """Whether the vertical axis starts at 0."""

    top: float | None = None
    """Largest possible value, if there is one; the axis ends slightly above it."""

    bottom: float | None = None
    """Lower limit of the axis, whatever the values."""

    marks: tuple[float, ...] = ()
    """Positions of vertical lines, at changes of the task."""

    x_label: str = ""
    """Label of the horizontal axis; empty for that of the whole figure, below its last panels. With one, the
    ticks are those of any numbers, not of tasks or steps."""

    log_x: bool = False
    """Whether the horizontal axis is logarithmic, with a tick at every position."""

    log_y: bool = False
    """Whether the vertical axis is logarithmic."""

    @property
    def shows_seeds(self) -> bool:
        """Whether single seeds have lines: there are not so many that they would hide the means."""
        return sum(len(line.seeds) for line in self.lines) <= MAX_SEED_LINES


@dataclass(frozen=True)
class HeatMap:
    """Contents of one pair of axes: a matrix in colours, its first row at the top."""

    title: str
    """Title above the map."""

    label: str
    """Label of the colour bar, with the unit."""

    values: Array
    """Values of the cells; NaN where there is none. Shape: (rows, columns)."""

    limits: tuple[float, float]
    """Values at the ends of the colour scale, which maps side by side have in common."""

    x_label: str
    """Label of the columns, which are numbered from 0."""

    y_label: str
    """Label of the rows, likewise."""


@dataclass(frozen=True)
class Pictures:
    """Grid of grey-scale pictures, in place of a pair of axes."""

    title: str
    """Title above the grid."""

    images: Array
    """Pixels, from 0 (black) to 1. Shape: (rows, columns, height, width)."""

    row_labels: tuple[str, ...]
    """Label of each row of the grid."""


def panels_figure(
    rows: Sequence[Sequence[Panel | HeatMap | Pictures]], x_label: str, note: str = ""
) -> Figure:
    """Draw panels in a grid, with one legend above them all.

    Args:
        rows: Rows of the grid, which may differ in length; a grid of pictures takes the place of a panel.
        x_label: Label of the horizontal axes.
        note: Text below the grid, which is wrapped.

    Raises:
        ValueError: if there is no panel.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("A figure needs at least one panel.")
    with mpl.rc_context(RC_PARAMS):
        width = 1.0 + {1: 6.6, 2: 4.6, 3: 3.5}.get(columns, 3.1) * columns
        height = 3.9 if columns < 3 else 2.9
        panels = [panel for row in rows for panel in row if isinstance(panel, Panel)]
        styles = {line.label: style_of(line.style) for panel in panels for line in panel.lines}
        handles = legend_handles(styles, width)
        columns_of_legend = legend_columns(handles, width)
        legend_rows = legend_lines(handles, columns_of_legend)
        note = textwrap.fill(note, round(NOTE_CHARACTERS_PER_INCH * width))
        head = 0.15 + 0.24 * legend_rows
        foot = 0.1 + 0.18 * len(note.splitlines()) if note else 0.05
        total = head + foot + height * len(rows)
        figure = new_figure(width, total)
        figure.get_layout_engine().set(rect=(0, foot / total, 1, 1 - (head + foot) / total))  # type: ignore[union-attr, call-arg]
        grid = figure.add_gridspec(len(rows), columns)
        for i, row in enumerate(rows):
            for j, panel in enumerate(row):
                axes = figure.add_subplot(grid[i, j])
                if isinstance(panel, HeatMap):
                    _draw_heat_map(figure, axes, panel)
                elif isinstance(panel, Pictures):
                    _draw_pictures(axes, panel)
                else:
                    _draw_panel(axes, panel)
                    below = rows[i + 1] if i + 1 < len(rows) else ()
                    if panel.x_label or j >= len(below) or isinstance(below[j], HeatMap):
                        axes.set_xlabel(panel.x_label or x_label)
        figure.legend(
            handles=handles,
            loc="upper center",
            ncol=columns_of_legend,
            frameon=False,
            handlelength=4.4,
            borderaxespad=0.2,
        )
        if note:
            figure.text(0.5, 0.06 / total, note, ha="center", va="bottom", fontsize=9, color="#444")
        return figure


def style_of(index: int) -> tuple[str, Any, str]:
    """Return the colour, dash pattern and marker of a line.

    After the last of `STYLES` the colours are repeated, with other dash patterns and markers: of 49 lines no
    two are alike, even without their colours.

    Args:
        index: Index of the line, at least 0.
    """
    number = len(STYLES)
    turn = index // number
    return (
        STYLES[index % number][0],
        STYLES[(index + turn) % number][1],
        STYLES[(index + 2 * turn) % number][2],
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_ylabel(panel.label)
    _set_scales(axes, panel)
    if panel.marks:
        axes.grid(visible=False, axis="x")  # grid lines would be mistaken for changes
    for mark in panel.marks:
        axes.axvline(mark, color="#B4B4B4", linestyle=(0, (2, 2)), lw=0.8, zorder=1)
    for index, line in enumerate(panel.lines):
        _draw_seeds(axes, line, with_lines=panel.shows_seeds)
        _draw_mean(axes, line, index, len(panel.lines))
    axes.margins(x=0.02)
    if panel.top is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, panel.top * 1.03))
    if panel.bottom is not None:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], panel.bottom))
    if panel.from_zero:
        # An axis from 0 to 0 would have no height.
        top = axes.get_ylim()[1]
        axes.set_ylim(0.0, top if top > 0 else 1.0)


def _draw_heat_map(figure: Figure, axes: Axes, panel: HeatMap) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=False)
    image = axes.imshow(panel.values, cmap="cividis", norm=Normalize(*panel.limits))
    axes.set_facecolor("#F2F2F2")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(panel.label)
    bar.outline.set_visible(False)


def _draw_pictures(axes: Axes, pictures: Pictures) -> None:
    rows, columns, height, width = pictures.images.shape
    mosaic = pictures.images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, aspect="equal")
    axes.set_title(pictures.title, loc="left")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([(row + 0.5) * height - 0.5 for row in range(rows)], pictures.row_labels)
    axes.tick_params(length=0)
    for edge in range(1, rows):
        axes.axhline(edge * height - 0.5, color="white", lw=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _set_scales(axes: Axes, panel: Panel) -> None:
    if panel.log_y:
        axes.set_yscale("log")
    if panel.log_x:
        axes.set_xscale("log")
        positions = sorted({float(each) for line in panel.lines for each in line.positions})
        axes.set_xticks(positions, [shortest(each) for each in positions])
        axes.minorticks_off()
    elif not panel.x_label:
        furthest = max((line.positions.max(initial=0.0) for line in panel.lines), default=0.0)
        rounded = {"steps": [1, 2, 2.5, 5, 10]} if furthest >= THOUSANDS else {}
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, **rounded))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda position, _: short_count(round(position)))
        )
    elif all(float(each).is_integer() for line in panel.lines for each in line.positions):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_seeds(axes: Axes, line: Line, *, with_lines: bool) -> None:
    """Draw the line of each seed, and the crosses of those that diverged in any case."""
    colour = style_of(line.style)[0]
    for (positions, values), diverged in zip(line.seeds, line.diverged, strict=True):
        if with_lines:
            axes.plot(positions, values, color=colour, alpha=FAINT, lw=0.8, zorder=2)
        finite = np.flatnonzero(np.isfinite(values))
        if not diverged or not len(positions):
            continue
        cross: dict[str, Any] = {"color": colour, "ms": 9, "mew": 2, "zorder": 6, "clip_on": False}
        if finite.size:
            axes.plot(positions[finite[-1]], values[finite[-1]], "x", **cross)
        else:  # diverged at its first row: the cross goes on the axis
            axes.plot(positions[0], 0.0, "x", transform=axes.get_xaxis_transform(), **cross)


def _draw_mean(axes: Axes, line: Line, index: int, count: int) -> None:
    colour, dash, marker = style_of(line.style)
    has_interval = np.isfinite(line.low)
    axes.fill_between(
        line.positions, line.low, line.high, where=has_interval, color=colour, alpha=0.16, lw=0
    )
    # Lines have their markers at different tasks, so that none hides another.
    every = max(1, len(line.positions) // MARKERS_PER_LINE)
    start = (index * every) // max(count, 1)
    axes.plot(
        line.positions,
        line.mean,
        color=colour,
        linestyle=dash,
        lw=1.9,
        marker=marker,
        ms=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markevery=(min(start, max(len(line.positions) - 1, 0)), every),
        zorder=4,
    )


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; drawn on under `RC_PARAMS`."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr, call-arg]
    return figure


def to_png(figure: Figure) -> bytes:
    """Render a figure as PNG, deterministically: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC_PARAMS):
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def for_papers(figure: Figure) -> dict[str, bytes]:
    """Render a figure as PNG and as PDF, by the endings of their names, deterministically.

    The text of the PDF is text, in TrueType fonts, as publishers want it. The figure's layout is then fixed.
    """
    png = to_png(figure)
    figure.set_layout_engine("none")  # the PNG's, which took most of the time
    buffer = io.BytesIO()
    with mpl.rc_context({**RC_PARAMS, "pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return {"png": png, "pdf": buffer.getvalue()}
