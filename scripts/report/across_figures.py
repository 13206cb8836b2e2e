"""Figures over all benchmarks: means on each, performance profiles, and which method beats which."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plasticity.scripts.report.across import Across, interquartile_with_interval
from plasticity.scripts.report.arms import shared_positions, values_at
from plasticity.scripts.report.comparison import Comparison
from plasticity.scripts.report.contents import MAX_COLUMNS, styles_of
from plasticity.scripts.report.map_figure import readable
from plasticity.scripts.report.metric_names import factor_of, is_better_lower, with_unit
from plasticity.scripts.report.panels import (
    RC_PARAMS,
    Line,
    Panel,
    new_figure,
    panels_figure,
    style_of,
)

TITLE_CHARACTERS = 28
"""Number of characters in a line of a title above a panel of means."""


def draw_across(found: Across, comparisons: Sequence[Comparison]) -> dict[str, Figure]:
    """Draw the figures over all benchmarks.

    Args:
        found: Scores of the methods.
        comparisons: Comparisons that they are those of.

    Returns:
        Figures by name: means, profiles, and improvement if there are two methods or more.
    """
    figures = {"means": _means(found, comparisons), "profiles": _profiles(found)}
    if len(found.scores) > 1:
        figures["improvement"] = _improvement(found)
    return figures


def _means(found: Across, comparisons: Sequence[Comparison]) -> Figure:
    """Draw the interquartile mean of each method on each benchmark, the best methods over all at the top."""
    methods = found.improvements[0]
    styles = styles_of(list(found.scores))
    columns = min(MAX_COLUMNS, len(comparisons))
    rows = -(-len(comparisons) // columns)
    titles = [_title(comparison.benchmark) for comparison in comparisons]
    lines = max(title.count("\n") for title in titles)
    height = 0.75 + 0.17 * lines + 0.24 * len(methods)
    with mpl.rc_context(RC_PARAMS):
        figure = new_figure(1.6 + 2.6 * columns, height * rows + 0.3)
        for number, comparison in enumerate(comparisons):
            axes = figure.add_subplot(rows, columns, number + 1)
            _draw_means(axes, comparison, methods, styles)
            axes.set_title(titles[number], loc="left")
            if number % columns:
                axes.set_yticklabels([])
        note = "interquartile mean over seeds"
        if any(len(scores) > 1 for scores in found.scores.values()):
            note += f", {100 * found.confidence:g} % bootstrap interval"
        figure.supxlabel(note, fontsize=9)
        return figure


def _title(benchmark: str) -> str:
    """Return the name of a benchmark in lines that a panel of means has room for."""
    if len(benchmark) <= TITLE_CHARACTERS:
        return benchmark
    parts = benchmark.replace("/", "/\n").splitlines()
    return "\n".join(textwrap.fill(part, TITLE_CHARACTERS) for part in parts)


def _draw_means(
    axes: Axes, comparison: Comparison, methods: Sequence[str], styles: Mapping[str, int]
) -> None:
    metric = comparison.headline
    where = shared_positions(comparison.chosen, metric)
    arms = {arm.method: arm for arm in comparison.chosen}
    for row, method in enumerate(methods):
        every = values_at(arms[method], metric, comparison.moment, where).values()
        values = factor_of(metric) * np.array([value for value in every if value is not None])
        middle, low, high = interquartile_with_interval(values[:, None], comparison.confidence)
        colour, _, marker = style_of(styles[method])
        axes.plot([low, high], [row, row], color=colour, lw=2)
        axes.plot(middle, row, color=colour, marker=marker, ms=7, mec="white", mew=0.6)
    axes.set_xlabel(with_unit(metric))
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if is_better_lower(metric):
        axes.invert_xaxis()


def _profiles(found: Across) -> Figure:
    thresholds, shares = found.profiles
    styles = styles_of(list(shares))
    lines = []
    for method, curves in shares.items():
        share, low, high = (100.0 * curve for curve in curves)
        line = Line(method, styles[method], thresholds, share, low, high, seeds=(), diverged=())
        lines.append(line)
    title = f"performance profiles over {len(found.benchmarks)} benchmarks"
    panel = Panel(
        title, "runs above the score (%)", tuple(lines), top=100.0, bottom=0.0, x_label="score"
    )
    note = f"band: {100 * found.confidence:g} % bootstrap interval, stratified by benchmark"
    return panels_figure([[panel]], "score", note)


def _improvement(found: Across) -> Figure:
    methods, values = found.improvements
    count = len(methods)
    with mpl.rc_context({**RC_PARAMS, "axes.grid": False}):
        # As high as the longest label needs, however few methods there are.
        figure = new_figure(3.0 + 0.55 * count, max(3.4, 1.6 + 0.4 * count))
        axes = figure.add_subplot()
        image = axes.imshow(values, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
        axes.set_xticks(range(count), methods, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), methods)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            if row != column:
                colour = readable(image.cmap(value))
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9
                )
        axes.set_xlabel("this one")
        axes.set_ylabel("a run of this method beats a run of")
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label("probability of improvement")
        bar.outline.set_visible(False)
        return figure
