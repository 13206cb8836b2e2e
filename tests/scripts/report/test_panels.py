"""Panels: the data drawn, and files that are PNG and reproducible."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from plasticity.scripts.report.panels import (
    STYLES,
    HeatMap,
    Line,
    Panel,
    Pictures,
    for_papers,
    panels_figure,
    style_of,
    to_png,
)


def make_line(label="syre", style=2, diverged=False):
    positions = np.arange(6.0)
    values = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.7, 0.6, 0.5, 0.4, 0.3, 0.2]]) * 100
    first = np.where(positions < 3, values[0], np.nan) if diverged else values[0]
    return Line(
        label=label,
        style=style,
        positions=positions,
        mean=values.mean(axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        seeds=((positions, first), (positions, values[1])),
        diverged=(diverged, False),
    )


def make_panel(*lines, **changes):
    return Panel(title="fc1", label="accuracy (%)", lines=lines or (make_line(),), **changes)


def test_a_panel_shows_mean_band_and_seeds():
    figure = panels_figure([[make_panel()]], "task")
    (axes,) = figure.axes
    first, second, mean = axes.lines
    np.testing.assert_array_equal(mean.get_ydata(), [80, 70, 60, 50, 40, 30])
    np.testing.assert_array_equal(first.get_ydata(), [90, 80, 70, 60, 50, 40])
    assert second.get_alpha() < 0.5
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 20
    assert band[:, 1].max() == 90
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("task", "accuracy (%)")


def test_many_seeds_have_no_lines_but_their_crosses():
    few, many = (make_panel(*[make_line(f"method {i}", i) for i in range(n)]) for n in (40, 41))
    assert (few.shows_seeds, many.shows_seeds) == (True, False)
    diverged = [make_line(f"method {i}", i, diverged=i == 0) for i in range(41)]
    axes, beside = panels_figure([[make_panel(*diverged), few]], "task").axes
    assert len(axes.lines) == 41 + 1  # the means, and one cross
    assert [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1] == ["x"]
    assert len(beside.lines) == 3 * 40


def test_a_heat_map_beside_a_panel():
    values = np.array([[1.0, 0.25], [0.5, np.nan], [0.0, 1.0]])
    heat_map = HeatMap("syre", "correlation", values, (-1.0, 1.0), x_label="class", y_label="image")
    figure = panels_figure([[heat_map, make_panel()]], "task", "note")
    axes, bar, beside = figure.axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
    assert image.get_clim() == (-1.0, 1.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class", "image")
    assert (axes.get_title(loc="left"), bar.get_ylabel()) == ("syre", "correlation")
    assert beside.get_xlabel() == "task"
    assert [text.get_text() for text in figure.legends[0].texts] == ["syre"]
    assert to_png(figure)
    # Above a map, whose axes are others, a panel has the label that it has above nothing.
    above = panels_figure([[make_panel()], [heat_map]], "task").axes[0]
    assert above.get_xlabel() == "task"


def test_a_seed_that_diverged_ends_in_a_cross():
    (axes,) = panels_figure([[make_panel(make_line(diverged=True))]], "task").axes
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    # Its last finite value: 70 at task 2.
    assert [(line.get_xdata().item(), line.get_ydata().item()) for line in crosses] == [(2, 70)]


def test_axes_can_start_at_zero_and_end_above_the_largest_possible_value():
    (axes,) = panels_figure([[make_panel(from_zero=True)]], "task").axes
    assert axes.get_ylim()[0] == 0
    full = Line("none", 0, *(np.full(3, 100.0) for _ in range(4)), seeds=(), diverged=())
    (axes,) = panels_figure([[make_panel(full, top=100.0)]], "task").axes
    assert axes.get_ylim()[1] == pytest.approx(103.0)


def test_the_bottom_limits_an_axis_without_extending_it():
    (axes,) = panels_figure([[make_panel(bottom=45.0)]], "task").axes
    assert axes.get_ylim()[0] == 45
    (axes,) = panels_figure([[make_panel(bottom=-1000.0)]], "task").axes
    assert axes.get_ylim()[0] > 0


def test_marks_are_vertical_lines_behind_the_others():
    (axes,) = panels_figure([[make_panel(marks=(2.0, 4.0))]], "task").axes
    first, second, *others = axes.lines
    assert (list(first.get_xdata()), list(second.get_xdata())) == ([2, 2], [4, 4])
    assert first.get_zorder() < min(line.get_zorder() for line in others)
    assert not any(line.get_visible() for line in axes.get_xgridlines())


def test_steps_are_labelled_in_thousands_and_millions():
    steps = np.linspace(0, 2e6, 5)
    line = Line("none", 0, steps, steps, steps, steps, seeds=(), diverged=())
    figure = panels_figure([[make_panel(line)]], "step")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert texts[1:-1] == ["0", "500 k", "1 M", "1.5 M", "2 M"]


def test_values_of_zero_have_axes_of_positive_height():
    zeros = np.zeros(3)
    line = Line("none", 0, np.arange(3.0), zeros, zeros, zeros, seeds=(), diverged=())
    (axes,) = panels_figure([[make_panel(line, from_zero=True)]], "task").axes
    low, high = axes.get_ylim()
    assert low == 0 < high


def test_one_task_and_one_seed_can_be_drawn():
    nan = np.array([np.nan])
    line = Line(
        "none",
        0,
        np.array([0.0]),
        np.array([0.5]),
        nan,
        nan,
        ((np.zeros(1), np.zeros(1)),),
        (False,),
    )
    assert to_png(panels_figure([[make_panel(line)]], "task"))


def test_a_grid_has_one_legend_and_labels_below_each_column():
    lines = (make_line("none", 0), make_line("syre", 2))
    rows = [[make_panel(*lines), make_panel(*lines)], [make_panel(*lines)]]
    figure = panels_figure(rows, "task")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["none", "syre"]
    # The first row is the last of the second column.
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "task", "task"]


def test_pictures_stand_beside_panels():
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) / 120
    pictures = Pictures("drawn", images, ("first", "second"))
    figure = panels_figure([[make_panel(), pictures]], "task")
    axes = figure.axes[1]
    (shown,) = axes.get_images()
    mosaic = np.asarray(shown.get_array())
    assert mosaic.shape == (8, 15)  # two rows of three pictures of 4 x 5 pixels
    assert np.array_equal(mosaic[4:, 5:10], images[1, 1])
    assert shown.get_clim() == (0.0, 1.0)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_yticks().tolist() == [
        1.5,
        5.5,
    ]  # the middles of the rows of pixels 0 to 3, 4 to 7
    assert len(figure.legends[0].get_texts()) == 1


def test_lines_differ_in_colour_dash_and_marker():
    colours, dashes, markers = zip(*STYLES, strict=True)
    assert len(set(colours)) == len({str(dash) for dash in dashes}) == len(set(markers))
    # Greyscale: the luminances of the first three differ clearly.
    luminance = sorted(np.dot(to_rgb(c), [0.2126, 0.7152, 0.0722]) for c in colours[:3])
    assert min(np.diff(luminance)) > 0.1


def test_no_two_of_many_lines_look_alike_even_in_greyscale():
    colours, dashes, markers = zip(*map(style_of, range(49)), strict=True)
    assert [style_of(index) for index in range(len(STYLES))] == list(STYLES)
    assert len(set(zip(map(str, dashes), markers, strict=True))) == 49
    assert len(set(zip(colours, markers, strict=True))) == 49


def test_a_line_after_the_last_style_repeats_only_its_colour():
    line = make_line(style=len(STYLES))
    figure = panels_figure([[make_panel(line)]], "task")
    (mean,) = [each for each in figure.axes[0].lines if each.get_marker() not in ("None", None, "")]
    assert mean.get_color() == STYLES[0][0]
    assert mean.get_marker() == STYLES[2][2]


def test_no_font_is_smaller_than_nine_points():
    figure = panels_figure([[make_panel(), make_panel(), make_panel()]], "task", note="a note")
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 9


def test_a_figure_without_panels_is_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        panels_figure([], "task")


def test_files_are_reproducible_png_and_leave_the_settings_unchanged():
    before = dict(mpl.rcParams)
    first, second = (to_png(panels_figure([[make_panel()]], "task")) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG\r\n")
    assert dict(mpl.rcParams) == before


def test_a_figure_for_papers_is_a_png_and_a_pdf_in_truetype():
    files = for_papers(panels_figure([[make_panel()]], "task"))
    assert files["png"].startswith(b"\x89PNG")
    assert files["pdf"].startswith(b"%PDF")
    assert b"/Subtype /Type3" not in files["pdf"]
