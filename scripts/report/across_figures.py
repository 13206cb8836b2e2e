"""Figures over all benchmarks: performance profiles, and which method beats which."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from plasticity.scripts.report.across import Across
from plasticity.scripts.report.contents import styles_of
from plasticity.scripts.report.figures import readable
from plasticity.scripts.report.panels import RC_PARAMS, Line, Panel, new_figure, panels_figure


def draw_across(found: Across) -> dict[str, Figure]:
    """Draw the figures over all benchmarks.

    Returns:
        Figures by name: profiles, and improvement if there are two methods or more.
    """
    figures = {"profiles": _profiles(found)}
    if len(found.scores) > 1:
        figures["improvement"] = _improvement(found)
    return figures


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
        figure = new_figure(3.0 + 0.55 * count, 1.6 + 0.4 * count)
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
