"""Legends, measured as they are drawn."""

import numpy as np
import pytest

from plasticity.scripts.report.arms import known_methods
from plasticity.scripts.report.legend import legend_columns, legend_handles, legend_lines
from plasticity.scripts.report.panels import Line, Panel, panels_figure, style_of


def test_short_names_have_a_column_each_and_long_ones_are_broken():
    handles = legend_handles({name: style_of(0) for name in ("none", "syre", "redo")}, width=8.0)
    assert (legend_columns(handles, 8.0), legend_lines(handles, 3)) == (3, 1)
    # 0.4 of margins; of 2.6 inches an entry of four letters takes 0.98 + 4 * 0.085 = 1.32
    assert legend_columns(handles, 3.0) == 1
    assert legend_columns(handles, 3.1) == 2
    assert (legend_lines(handles, 1), legend_lines(handles, 2)) == (3, 2)
    (long,) = legend_handles({"first word, second word": style_of(1)}, width=2.5)
    assert long.get_label() == "first word,\nsecond word"  # 13 characters
    assert legend_lines([long], 1) == 2


@pytest.mark.parametrize("columns", [1, 2])
def test_the_legend_of_many_methods_is_inside_of_the_figure(columns):
    labels = [*known_methods()[:30], "layer-norm+regrama+proximal-features+weight-clipping"]
    labels.append("+".join(known_methods()[1:12]))  # longer than the figure is wide
    values = np.arange(6.0)
    lines = tuple(
        Line(label, index, values, values, values, values, seeds=(), diverged=())
        for index, label in enumerate(labels)
    )
    figure = panels_figure([[Panel("accuracy", "%", lines)] * columns], "task")
    (legend,) = figure.legends
    figure.draw_without_rendering()
    box, whole = legend.get_window_extent(), figure.bbox
    assert box.x0 >= whole.x0
    assert box.x1 <= whole.x1
    assert box.y1 <= whole.y1
    assert box.y0 >= max(axes.get_tightbbox().y1 for axes in figure.axes)
    texts = [text.get_text().replace("\n", "") for text in legend.get_texts()]
    assert texts == labels
