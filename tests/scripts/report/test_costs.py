"""Scores beside costs, of files that are made up."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import by_benchmark, write_runs

from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.costs import benchmark_costs, frontier, read_costs


def row(method, value, *, case="MLP, batch 1", unit="time", measurement="methods"):
    return {"measurement": measurement, "case": f"{method}, {case}", "unit": unit, "value": value}


def costs_file(path, *rows):
    path.write_text(json.dumps({"rows": list(rows)}))
    return path


ROWS = (
    row("syre", 1.25),
    row("redo", 2.0),
    row("redo", 1.5, case="CNN, batch 64"),
    row("redo", 9.0, unit="memory"),
    row("syre", None, case="CNN, batch 64"),
    row("simulation", 3.0, measurement="ant"),
)


def test_times_of_steps_are_read_by_what_was_trained(tmp_path):
    assert read_costs(costs_file(tmp_path / "costs.json", *ROWS)) == {
        "MLP, batch 1": {"none": 1.0, "syre": 1.25, "redo": 2.0},
        "CNN, batch 64": {"none": 1.0, "redo": 1.5},
    }


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"rows": [1]}', '{"rows": [{"measurement": "methods"}]}'),
        json.dumps({"rows": [row("syre", 1.0) | {"case": 1}]}),
        *(json.dumps({"rows": [row("syre", value)]}) for value in (0, -1, math.nan, math.inf, "x")),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"Cannot read costs from .*plasticity bench --only methods"
    ):
        read_costs(tmp_path / "costs.json")


def test_a_file_without_methods_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no times of methods' steps"):
        read_costs(costs_file(tmp_path / "costs.json", ROWS[-1]))
    with pytest.raises(ValueError, match="Cannot read costs"):
        read_costs(tmp_path / "missing.json")


POINTS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1
)


@given(POINTS)
def test_nothing_beats_a_method_of_the_frontier_in_both(points):
    best = frontier(points)
    for method, (cost, score) in points.items():
        beaten = [
            other
            for other, (c, s) in points.items()
            if c <= cost and s >= score and (c, s) != (cost, score)
        ]
        equal = [points[each] == (cost, score) for each in best]
        assert any(equal) == (not beaten), method
    assert len({points[method] for method in best}) == len(best)


def test_each_network_has_a_panel_and_lower_losses_are_above(tmp_path):
    losses = {"none": [[4.0], [5.0]], "syre": [[1.0], [2.0]], "redo": [[2.0], [4.0]]}
    write_runs(tmp_path, "slowly-changing-regression", losses, metric="online_loss")
    (runs,) = by_benchmark(tmp_path).values()
    costs = read_costs(costs_file(tmp_path / "costs.json", *ROWS))
    figure = benchmark_costs(compare(runs, None, 0.95), costs)
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == list(costs)
    assert first.get_ylim()[0] > first.get_ylim()[1]
    points = {
        container[0].get_xdata()[0]: container[0].get_ydata()[0] for container in first.containers
    }
    assert points == pytest.approx({1.0: 4.5, 1.25: 1.5, 2.0: 3.0})
    # none is the cheapest, syre the best; redo is beaten by syre in both.
    assert first.lines[0].get_xdata()[:-1].tolist() == pytest.approx([1.0, 1.25])
    assert len(second.containers) == 2
    assert not figure.get_supxlabel()
    without = benchmark_costs(compare(runs, None, 0.95), {"MLP": {"none": 1.0}})
    assert without.get_supxlabel() == "cost not measured: syre, redo"
    assert benchmark_costs(compare(runs, None, 0.95), {"MLP": {"cbp": 2.0}}) is None


@pytest.mark.parametrize(
    "times", [(0.87, 0.95), (0.36, 0.39), (1.0, 3.0), (1.0, 48.0), (120.0, 300.0)]
)
def test_axes_of_costs_have_ticks_to_read_them_by(tmp_path, times):
    values = {"redo": [[0.1], [0.2]], "syre": [[0.3], [0.4]]}
    write_runs(tmp_path, "permuted-digits", values)
    (runs,) = by_benchmark(tmp_path).values()
    costs = {"MLP": dict(zip(values, times, strict=True))}
    axes = benchmark_costs(compare(runs, None, 0.95), costs).axes[0]
    low, high = axes.get_xlim()
    assert len([tick for tick in axes.get_xticks() if low <= tick <= high]) >= 2


def test_a_report_has_the_figures_where_costs_are_given(tmp_path):
    values = {"none": [[0.1], [0.2]], "syre": [[0.3], [0.4]]}
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path / "runs", benchmark, values)
    file = costs_file(tmp_path / "costs.json", *ROWS)
    written = report(ReportConfig((tmp_path / "runs",), costs=file))
    drawn = {path.name for path in written if path.name.endswith("_costs.png")}
    assert drawn == {"all_costs.png", "permuted-digits_costs.png", "permuted-mnist_costs.png"}
    again = report(ReportConfig((tmp_path / "runs",)))
    assert not [path for path in again if "costs" in path.name]
