"""Data of the page's charts: what is embedded, of runs with known values."""

import itertools
import json

import numpy as np
import pytest
from made_runs import by_benchmark, write_runs
from scipy import stats

from plasticity.scripts.report import charts
from plasticity.scripts.report.across import across
from plasticity.scripts.report.charts import as_json, page_data
from plasticity.scripts.report.comparison import compare

VALUES = {
    "none": [[0.9, 0.7, 0.5], [0.8, 0.6, None]],
    "syre": [[0.9, 0.85, 0.8], [0.8, 0.81234567, 0.82]],
}


def data_of(root, **options):
    comparisons = [compare(runs, None, 0.9) for runs in by_benchmark(root).values()]
    return page_data(comparisons, across(comparisons), **options)


def chart_of(benchmark, metric, layer=""):
    (found,) = [c for c in benchmark["charts"] if (c["metric"], c["layer"]) == (metric, layer)]
    return found


def test_the_values_of_every_run_are_embedded(tmp_path):
    write_runs(tmp_path, "permuted-digits", VALUES, diverged={("none", 1)})
    data = data_of(tmp_path)
    (benchmark,) = data["benchmarks"]
    chart = chart_of(benchmark, "test accuracy")
    none, syre = chart["lines"]
    assert none["runs"] == [[90, 70, 50], [80, 60, None]]
    assert none["diverged"] == [False, True]
    assert syre["runs"][1] == [80, 81.235, 82]  # five digits
    assert benchmark["positions"] == [[0, 1, 2]]  # once, for all lines
    assert none["positions"] == syre["positions"] == 0
    assert (chart["share"], chart["top"], chart["bottom"], chart["decimals"]) == (True, 100, 0, 1)
    assert data["first"] == "test accuracy"
    assert data["profile"] is None
    assert [style["name"] for style in data["methods"]] == ["none", "syre"]


def test_layers_are_charts_of_one_metric(tmp_path):
    write_runs(tmp_path, "permuted-digits", VALUES)
    (benchmark,) = data_of(tmp_path)["benchmarks"]
    chart = chart_of(benchmark, "effective rank", "fc2")
    assert chart["lines"][0]["runs"] == [[20, 19, 18]] * 2
    assert (chart["label"], chart["group"]) == ("effective rank (dimensions)", "ranks")
    assert (chart["zero"], chart["share"], chart["decimals"]) == (True, False, 1)
    assert "on the probe batch" in benchmark["captions"]["ranks"]


def test_intervals_have_the_factors_of_students_t(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.5]] * 4})
    nothing, one, *factors = data_of(tmp_path)["t"]
    assert (nothing, one) == (None, None)
    assert factors == pytest.approx([stats.t.ppf(0.95, n - 1) for n in (2, 3, 4)], rel=1e-4)


def test_long_runs_are_thinned_to_what_a_page_can_hold(tmp_path, monkeypatch):
    values = np.linspace(0.9, 0.5, 201).tolist()
    write_runs(tmp_path, "permuted-digits", {"none": [values], "syre": [values]})
    # of 2 methods, 3 metrics and 201 rows: every third, and the last
    monkeypatch.setattr(charts, "MAX_NUMBERS", 402)
    data = data_of(tmp_path)
    assert data["stride"] == 3
    assert data["benchmarks"][0]["positions"] == [[*range(0, 201, 3), 200]]
    monkeypatch.setattr(charts, "MAX_NUMBERS", 12)  # never fewer than 50 of a line: every fourth
    positions = data_of(tmp_path)["benchmarks"][0]["positions"][0]
    assert positions == list(range(0, 201, 4))
    assert positions[-1] == 200


def test_methods_look_the_same_on_all_benchmarks(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.5]], "churn": [[0.5]]})
    write_runs(tmp_path, "permuted-mnist", {"none": [[0.5]], "fire": [[0.5]]})
    data = data_of(tmp_path)
    looks = {(m["colour"], tuple(m["dash"]), m["shape"]) for m in data["methods"]}
    assert len(looks) == len(data["methods"]) == 3
    assert data["methods"][0]["colour"] == "currentColor"  # black, and white in dark mode


def test_the_profile_is_in_per_cent_from_the_lowest_score_to_the_highest(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": [[0.2], [0.4]], "syre": [[0.6], [0.8]]})
    profile = data_of(tmp_path)["profile"]
    none, syre = profile["lines"]
    assert (profile["positions"][0], profile["positions"][-1]) == (0.2, 0.8)
    # Above 0.2 are the runs with 0.4, one of two on each benchmark; above 0.8 is none.
    assert (none["mean"][0], none["mean"][-1]) == (50, 0)
    assert (syre["mean"][0], syre["mean"][-1]) == (100, 0)
    assert none["low"][0] <= 50 <= none["high"][0]


def test_json_cannot_end_the_script_that_it_is_in():
    text = as_json({"name": "</script><!--", "value": 0.5})
    assert "<" not in text
    assert json.loads(text) == {"name": "</script><!--", "value": 0.5}


def test_a_map_has_its_titles_in_parts_and_the_decimals_of_its_values(tmp_path):
    for strength, sigma, decoupled, target in itertools.product(
        (1.0, 2.0), (0.1, 0.2), (False, True), ("zero", "anchor")
    ):
        settings = {"strength": strength, "sigma": sigma, "decoupled": decoupled, "target": target}
        folder = tmp_path / "_".join(map(str, settings.values()))
        values = {"syre": [[0.001 * strength + 0.01 * sigma]]}
        write_runs(folder, "permuted-digits", values, metric="online_loss", settings=settings)
    (benchmark,) = data_of(tmp_path)["benchmarks"]
    found = benchmark["map"]
    assert [panel["title"] for panel in found["panels"]] == [
        ["decoupled False", "target anchor"],
        ["decoupled False", "target zero"],
        ["decoupled True", "target anchor"],
        ["decoupled True", "target zero"],
    ]
    assert found["decimals"] == 5  # three digits of 0.004
    assert found["domain"] == [0.002, 0.004]
    best = [cell for panel in found["panels"] for cell in panel["cells"] if cell["best"]]
    assert [(cell["row"], cell["column"], cell["value"]) for cell in best] == [(1, 0.1, 0.002)] * 4
