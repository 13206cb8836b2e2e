"""Maps of settings as heat maps: the cells, the references beside them, and their common scale."""

from dataclasses import replace

import numpy as np
import pytest

from plasticity.scripts.report.map_figure import map_figure
from plasticity.scripts.report.panels import to_png
from plasticity.scripts.report.settings_map import MapPanel, SettingsMap

VALUES = np.array([[80.0, 90.0, 85.0], [70.0, np.nan, 60.0]])


def make_panel(values=VALUES, title="", best=(0, 1)):
    return MapPanel(
        title=title,
        rows=(0.001, 0.01),
        columns=(0.1, 0.3, 1.0),
        values=values,
        notes=(("", "", ""), ("", "not run", "1 of 3 div.")),
        best=best,
    )


def make_map(*panels, **changes):
    given = {
        "title": "syre",
        "label": "test accuracy (%)",
        "row_label": "strength",
        "column_label": "sigma",
        "panels": panels or (make_panel(),),
        "num_columns": 1,
        "percent": True,
        "references": (("none", 55.0), ("weight-decay\n(strength 0.01)", 88.0)),
    }
    return SettingsMap(**{**given, **changes})


def test_a_map_labels_its_cells_and_references():
    figure = map_figure(make_map())
    axes, beside, _ = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"80.0", "90.0", "85.0", "70.0", "—", "60.0", "not run", "1 of 3 div."}
    assert {text.get_text() for text in beside.texts} == {
        "55.0",
        "none",
        "88.0",
        "weight-decay\n(strength 0.01)",
    }
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.3", "1"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.001", "0.01"]


def test_the_settings_of_a_reference_fit_in_its_cell():
    name = "weight-decay\n(strength 0.001, learning_rate 0.0123, batch_size 128)"
    figure = map_figure(make_map(references=(("none", 55.0), (name, 88.0))))
    figure.canvas.draw()
    beside = figure.axes[1]
    cell = beside.get_window_extent()
    for text in beside.texts:
        extent = text.get_window_extent()
        assert cell.x0 <= extent.x0
        assert extent.x1 <= cell.x1


def test_a_map_outlines_the_best_cell_and_shares_its_scale_with_the_references():
    axes, beside, _ = map_figure(make_map()).axes
    (outline,) = axes.patches
    # The middle of column 1, row 0.
    middle = (outline.get_x() + outline.get_width() / 2, outline.get_y() + outline.get_height() / 2)
    assert middle == pytest.approx((1, 0))
    assert axes.images[0].get_clim() == beside.images[0].get_clim() == (55.0, 90.0)


def test_text_in_a_map_contrasts_with_its_cell():
    axes = map_figure(make_map()).axes[0]
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours["90.0"] == "black"  # on yellow
    assert colours["60.0"] == "white"  # on dark blue


def test_a_map_of_equal_values_without_references_can_be_drawn():
    assert to_png(map_figure(make_map(make_panel(np.full((2, 3), 50.0)), references=())))


def test_a_map_of_losses_has_three_digits_of_the_largest():
    references = (("none", 0.02),)
    losses = make_panel(VALUES / 10_000)
    axes, beside, _ = map_figure(make_map(losses, percent=False, references=references)).axes
    shown = {text.get_text() for text in axes.texts}
    assert shown >= {"0.0080", "0.0090", "0.0085", "0.0070", "0.0060"}
    assert beside.texts[0].get_text() == "0.0200"


def test_a_panel_without_values_has_no_outline():
    empty = make_panel(np.full((2, 3), np.nan), "width 64", best=None)
    axes = map_figure(make_map(make_panel(title="width 8"), empty, num_columns=2)).axes
    assert [len(each.patches) for each in axes[:2]] == [1, 0]


def test_titles_of_panels_do_not_overlap():
    long = "target a-rather-long-name-that-goes-on"
    values = np.array([[80.0], [70.0]])
    panels = [
        replace(make_panel(values, f"decoupled {each}, {long}", (0, 0)), columns=(0.1,))
        for each in (False, True)
    ]
    figure = map_figure(make_map(*panels, num_columns=2))
    figure.canvas.draw()
    left, right = (axes._left_title for axes in figure.axes[:2])
    assert left.get_text() == f"decoupled False,\n{long}"
    assert left.get_window_extent().x1 < right.get_window_extent().x0
    top = figure._suptitle.get_window_extent().y0
    assert left.get_window_extent().y1 <= top


def test_a_map_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        map_figure(make_map(make_panel(np.full((2, 3), np.nan))))


def test_panels_share_their_scale_and_each_outlines_its_best():
    narrow, wide = make_panel(title="width 8"), make_panel(VALUES + 4, "width 64", best=(0, 2))
    figure = map_figure(make_map(narrow, wide, num_columns=2))
    left, right, beside, _ = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["width 8", "width 64"]
    limits = {axes.images[0].get_clim() for axes in (left, right, beside)}
    assert limits == {(55.0, 94.0)}
    outlines = [axes.patches[0].get_x() + 0.46 for axes in (left, right)]
    assert outlines == pytest.approx([1, 2])
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in (left, right)]
    assert boxes[0].y0 == pytest.approx(boxes[1].y0)
    assert boxes[0].x1 < boxes[1].x0
