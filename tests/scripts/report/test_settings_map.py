"""Maps of settings: which of them span it, and its panels. That of two settings is in test_command.py."""

import itertools

import numpy as np
import pytest
from made_runs import write_run

from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.run_folders import find_runs
from plasticity.scripts.report.settings_map import settings_map

GRID = tuple(itertools.product((1.0, 2.0), (0.1, 0.2, 0.3), (False, True)))


def write_grid(root, cells=GRID, **others):
    """Write runs of syre of accuracy 0.1 * strength + 0.1 * sigma, less 0.3 * sigma if decoupled."""
    for strength, sigma, decoupled in cells:
        settings = {"strength": strength, "sigma": sigma, "decoupled": decoupled, **others}
        value = 0.1 * strength + (-0.2 if decoupled else 0.1) * sigma
        row = {"task": 0, "test_accuracy": value}
        folder = root / "_".join(map(str, settings.values()))
        write_run(folder, "permuted-digits", "syre", 0, [row], settings=settings)


def map_of(root):
    return settings_map(compare(find_runs(root), None, 0.95))


def test_a_third_setting_has_panels(tmp_path):
    write_grid(tmp_path)
    found = map_of(tmp_path)
    assert found.title == "syre, task 0"
    assert (found.row_label, found.column_label) == ("strength", "sigma")
    coupled, decoupled = found.panels
    assert (coupled.title, decoupled.title) == ("decoupled False", "decoupled True")
    assert (coupled.rows, coupled.columns) == ((1.0, 2.0), (0.1, 0.2, 0.3))
    np.testing.assert_allclose(coupled.values, [[11, 12, 13], [21, 22, 23]])
    np.testing.assert_allclose(decoupled.values, [[8, 6, 4], [18, 16, 14]])
    assert (coupled.best, decoupled.best) == ((1, 2), (1, 0))
    assert found.num_columns == 2
    assert (min(found.finite), max(found.finite)) == pytest.approx((4, 23))


def test_the_two_settings_with_the_most_values_span_the_panels(tmp_path):
    # strength has two values, sigma and probability have three, and decoupled is no number
    write_grid(tmp_path / "a", probability=0.1)
    write_grid(tmp_path / "b", probability=0.2)
    write_grid(tmp_path / "c", probability=0.3)
    found = map_of(tmp_path)
    assert {found.row_label, found.column_label} == {"sigma", "probability"}
    titles = [panel.title for panel in found.panels]
    assert titles == [
        f"strength {strength}, decoupled {decoupled}"
        for strength, decoupled in itertools.product((1, 2), (False, True))
    ]
    assert found.num_columns == 2
    assert {panel.values.shape for panel in found.panels} == {(3, 3)}


def test_panels_have_the_values_that_were_run_there(tmp_path):
    write_grid(tmp_path, [cell for cell in GRID if cell[2] or cell[0] == 1.0])
    coupled, decoupled = map_of(tmp_path).panels
    assert (coupled.rows, decoupled.rows) == ((1.0,), (1.0, 2.0))


def test_a_random_search_of_three_settings_is_no_map(tmp_path):
    cells = [(1.0, 0.1, False), (2.0, 0.2, False), (3.0, 0.3, False), (1.0, 0.3, True)]
    write_grid(tmp_path, cells)  # 4 of 9 + 1 cells
    assert map_of(tmp_path) is None
    write_grid(tmp_path / "more", [(2.0, 0.1, False)])
    assert map_of(tmp_path) is not None


def test_settings_without_two_numbers_are_no_map(tmp_path):
    write_grid(tmp_path, [cell for cell in GRID if cell[0] == 1.0])
    assert map_of(tmp_path) is None


def test_reports_draw_every_panel(tmp_path):
    write_grid(tmp_path / "runs")
    paths = report(ReportConfig((tmp_path / "runs",), out=tmp_path / "page"))
    assert any(path.name.endswith("_map.png") for path in paths)
