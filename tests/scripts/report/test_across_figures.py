"""Figures over all benchmarks, of runs that are made up."""

from dataclasses import replace

import numpy as np
import pytest
from made_runs import by_benchmark, write_runs

from plasticity.scripts.report.across import across
from plasticity.scripts.report.across_figures import draw_across
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare

NONE = [[0.1], [0.2], [0.3], [0.4]]
SYRE = [[0.5], [0.6], [0.7], [0.8]]


def comparisons_of(root):
    return [compare(runs, None, 0.95, benchmark=name) for name, runs in by_benchmark(root).items()]


def test_figures_over_all_benchmarks_are_written(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    names = [path.name for path in report(ReportConfig((tmp_path,)))]
    assert {"all_means.png", "all_profiles.png", "all_profiles.pdf", "all_improvement.png"} <= set(
        names
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Probability that a run of the row beats one of the column" in page
    assert 'href="all_profiles.pdf"' in page


def test_a_cell_holds_the_probability_of_its_row_over_its_column(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    comparisons = comparisons_of(tmp_path)
    figures = draw_across(across(comparisons), comparisons)
    axes = figures["improvement"].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["syre", "none"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (1, 0): "1.00",
        (0, 1): "0.00",
    }
    (panel,) = figures["profiles"].axes
    heights = {line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) > 2}
    assert sorted(heights) == pytest.approx([75.0, 100.0])


def test_a_single_seed_has_no_band_and_a_single_method_no_matrix(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE[:1]})
    comparisons = comparisons_of(tmp_path)
    figures = draw_across(across(comparisons), comparisons)
    assert list(figures) == ["means", "profiles"]
    assert figures["means"].get_supxlabel() == "interquartile mean over seeds"
    bands = [
        path.vertices
        for each in figures["profiles"].axes[0].collections
        for path in each.get_paths()
    ]
    assert all(not np.isfinite(vertices).any() for vertices in bands)


def points_of(axes):
    """Return the means by the name on the vertical axis."""
    names = [text.get_text() for text in axes.get_yticklabels()]
    return {
        names[int(line.get_ydata()[0])]: line.get_xdata()[0]
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }


def test_means_on_each_benchmark_are_those_of_the_middle_half_of_its_seeds(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    losses = {"none": [[4.0], [1.0], [2.0], [9.0]], "syre": [[1.0], [1.0], [1.0], [1.0]]}
    write_runs(tmp_path, "slowly-changing-regression", losses, metric="online_loss")
    comparisons = comparisons_of(tmp_path)
    figure = draw_across(across(comparisons), comparisons)["means"]
    digits, regression = figure.axes
    # the middle two of four: of 10, 20, 30 and 40 %, and of 1, 2, 4 and 9
    assert digits.get_title(loc="left") == "permuted-digits"
    assert [text.get_text() for text in digits.get_yticklabels()] == ["syre", "none"]
    regression.set_yticklabels(["syre", "none"])
    assert points_of(digits) == pytest.approx({"none": 25.0, "syre": 65.0})
    assert points_of(regression) == pytest.approx({"none": 3.0, "syre": 1.0})
    assert digits.get_xlim()[0] < digits.get_xlim()[1]
    assert regression.get_xlim()[0] > regression.get_xlim()[1]  # better to the right, too


@pytest.mark.parametrize(
    "folder", ["screening_second_draw", "a_very_long_folder_name_without_an_end"]
)
def test_titles_of_means_are_inside_of_the_figure(tmp_path, folder):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    names = ("one/permuted-digits", f"{folder}$x$/gradual-random-labels-permuted-mnist")
    comparisons = [
        replace(each, benchmark=name)
        for each, name in zip(comparisons_of(tmp_path), names, strict=True)
    ]
    figure = draw_across(across(comparisons), comparisons)["means"]
    figure.canvas.draw()
    for axes, name in zip(figure.axes, names, strict=True):
        title = axes._left_title
        assert title.get_text().replace("\n", "") == name
        assert title.get_window_extent().x1 <= figure.bbox.width
        assert title.get_window_extent().y1 <= figure.bbox.height
        assert not title.get_parse_math()


def test_few_methods_leave_room_for_the_labels_of_the_matrix(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    comparisons = comparisons_of(tmp_path)
    figure = draw_across(across(comparisons), comparisons)["improvement"]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        label = axes.yaxis.label.get_window_extent(renderer)
        assert label.y0 >= 0
        assert label.y1 <= figure.bbox.height
