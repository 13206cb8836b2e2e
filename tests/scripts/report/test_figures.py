"""Maps of settings: the cells, the references beside them, and their common scale."""

import numpy as np
import pytest

from plasticity.scripts.report.figures import SettingsMap, map_figure
from plasticity.scripts.report.panels import to_png


def make_map(**changes):
    given = {
        "title": "syre",
        "label": "test accuracy (%)",
        "rows": (0.001, 0.01),
        "columns": (0.1, 0.3, 1.0),
        "row_label": "strength",
        "column_label": "sigma",
        "values": np.array([[80.0, 90.0, 85.0], [70.0, np.nan, 60.0]]),
        "notes": (("", "", ""), ("", "not run", "1 of 3 div.")),
        "best": (0, 1),
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
    assert to_png(map_figure(make_map(values=np.full((2, 3), 50.0), references=())))


def test_a_map_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one cell"):
        map_figure(make_map(values=np.full((2, 3), np.nan)))
