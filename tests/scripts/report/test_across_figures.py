"""Figures over all benchmarks, of runs that are made up."""

import numpy as np
import pytest
from made_runs import write_runs

from plasticity.scripts.report.across import across
from plasticity.scripts.report.across_figures import draw_across
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.run_folders import by_benchmark

NONE = [[0.1], [0.2], [0.3], [0.4]]
SYRE = [[0.5], [0.6], [0.7], [0.8]]


def test_figures_over_all_benchmarks_are_written(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    names = [path.name for path in report(ReportConfig(tmp_path))]
    assert {"all_profiles.png", "all_profiles.pdf", "all_improvement.png"} <= set(names)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Probability that a run of the row beats one of the column" in page
    assert 'href="all_profiles.pdf"' in page


def test_a_cell_holds_the_probability_of_its_row_over_its_column(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    found = across([compare(runs, None, 0.95) for runs in by_benchmark(tmp_path).values()])
    axes = draw_across(found)["improvement"].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["syre", "none"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (1, 0): "1.00",
        (0, 1): "0.00",
    }
    (panel,) = draw_across(found)["profiles"].axes
    heights = {line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) > 2}
    assert sorted(heights) == pytest.approx([75.0, 100.0])


def test_a_single_seed_has_no_band_and_a_single_method_no_matrix(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE[:1]})
    found = across([compare(runs, None, 0.95) for runs in by_benchmark(tmp_path).values()])
    figures = draw_across(found)
    assert list(figures) == ["profiles"]
    bands = [
        path.vertices
        for each in figures["profiles"].axes[0].collections
        for path in each.get_paths()
    ]
    assert all(not np.isfinite(vertices).any() for vertices in bands)
