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
    diagonal = [(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)]
    cells = [(*cell, decoupled) for cell in (*diagonal, (1.0, 0.3)) for decoupled in (False, True)]
    write_grid(tmp_path, cells)  # 8 of 2 * 9 cells
    assert map_of(tmp_path) is None
    write_grid(tmp_path / "more", [(2.0, 0.1, False)])
    assert map_of(tmp_path) is not None


def test_of_settings_that_are_never_the_same_there_is_no_map(tmp_path):
    for index in range(4):  # a third setting of which every value has a panel of one cell
        cells = [(1.0 + index, 0.1 + index, False)]
        write_grid(tmp_path / str(index), cells, probability=0.1 * index)
    assert map_of(tmp_path) is None


def test_a_random_search_hides_no_other_methods_map(tmp_path):
    for index, (strength, sigma) in enumerate(itertools.product((1.0, 2.0), (0.1, 0.2))):
        folder, row = tmp_path / str(index), {"task": 0, "test_accuracy": 0.5}
        searched = {"strength": 0.3 * index, "power": 0.2 * index, "rate": 0.1 * index}
        swept = {"strength": strength, "sigma": sigma}
        for method, settings in (("weight-decay", searched), ("syre", swept)):
            write_run(folder, "permuted-digits", method, 0, [row], settings=settings)
    found = map_of(tmp_path)
    assert found.title == "syre, task 0"
    assert [panel.values.shape for panel in found.panels] == [(2, 2)]


def test_panels_are_in_the_order_of_their_settings_whichever_ran_first(tmp_path):
    write_grid(tmp_path, [cell for cell in GRID if cell[2] or cell[0] == 2.0])
    assert [panel.title for panel in map_of(tmp_path).panels] == [
        "decoupled False",
        "decoupled True",
    ]


def write_decoupled(root, rows, tasks):
    """Write four runs at each value of decoupled, with these rows if it is set, of their planned length."""
    for strength, sigma, decoupled in itertools.product((1.0, 2.0), (0.1, 0.2), (False, True)):
        settings = {"strength": strength, "sigma": sigma, "decoupled": decoupled}
        own = rows(strength) if decoupled else [{"task": 0, "test_accuracy": 0.5}]
        folder = root / f"{strength}_{sigma}_{decoupled}"
        planned = tasks if decoupled else 1
        write_run(folder, "permuted-digits", "syre", 0, own, tasks=planned, settings=settings)


def test_a_panel_of_unfinished_runs_outlines_none(tmp_path):
    write_decoupled(tmp_path, lambda strength: [{"task": 0, "test_accuracy": 0.5}], tasks=2)
    coupled, decoupled = map_of(tmp_path).panels
    assert coupled.best == (0, 0)
    assert decoupled.best is None
    assert np.isnan(decoupled.values).all()
    assert decoupled.notes == (("unfinished",) * 2,) * 2


def test_the_outlined_cell_is_the_best_of_the_values_that_are_shown(tmp_path):
    # At task 0, which all runs have, the strength 2 is the better one, and at task 1 the strength 1.
    def rows(strength):
        return [
            {"task": task, "test_accuracy": accuracy}
            for task, accuracy in enumerate((0.3 * strength, 0.9 - 0.2 * strength))
        ]

    write_decoupled(tmp_path, rows, tasks=2)
    decoupled = map_of(tmp_path).panels[1]
    np.testing.assert_allclose(decoupled.values, [[30, 30], [60, 60]])
    assert decoupled.best == (1, 0)


def test_a_run_that_diverged_is_outlined_only_if_all_did(tmp_path):
    for strength, sigma in itertools.product((1.0, 2.0), (0.1, 0.2)):
        for seed, value in enumerate((0.1 * strength, 0.3)):
            diverged = seed == 1 and strength == 2.0
            row = {"task": 0, "test_accuracy": None if diverged else value, "diverged": diverged}
            settings = {"strength": strength, "sigma": sigma}
            folder = tmp_path / f"{strength}_{sigma}"
            write_run(folder, "permuted-digits", "syre", seed, [row], settings=settings)
    (panel,) = map_of(tmp_path).panels
    np.testing.assert_allclose(panel.values, [[20, 20], [20, 20]])
    assert panel.notes == (("", ""), ("1 of 2 div.",) * 2)
    assert panel.best == (0, 0)


def test_of_losses_the_lowest_is_the_best_in_as_many_decimals_as_it_takes(tmp_path):
    for strength, sigma in itertools.product((1.0, 2.0), (0.1, 0.2)):
        row = {"task": 0, "online_loss": 0.001 * strength + 0.01 * sigma}
        settings = {"strength": strength, "sigma": sigma}
        folder = tmp_path / f"{strength}_{sigma}"
        write_run(folder, "permuted-digits", "syre", 0, [row], settings=settings)
    found = map_of(tmp_path)
    (panel,) = found.panels
    np.testing.assert_allclose(panel.values, [[0.002, 0.003], [0.003, 0.004]])
    assert panel.best == (0, 0)
    assert found.decimals == 5  # three digits of 0.004


def test_settings_without_two_numbers_are_no_map(tmp_path):
    write_grid(tmp_path, [cell for cell in GRID if cell[0] == 1.0])
    assert map_of(tmp_path) is None


def test_reports_draw_every_panel(tmp_path):
    write_grid(tmp_path / "runs")
    paths = report(ReportConfig((tmp_path / "runs",), out=tmp_path / "page"))
    assert any(path.name.endswith("_map.png") for path in paths)
