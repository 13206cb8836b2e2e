"""Differences to the baseline on each of several benchmarks."""

from dataclasses import replace

import pytest
from made_runs import by_benchmark, write_runs

from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.differences import (
    DIFFERENCES_NOTE,
    differences,
    differences_table,
)
from plasticity.scripts.report.headline import headline

SEEDS = range(8)
NONE = [[0.30 + 0.01 * seed] for seed in SEEDS]
ABOVE = [[0.40 + 0.01 * seed + 0.001 * (seed % 3)] for seed in SEEDS]
MIXED = [[0.30 + 0.01 * seed + 0.02 * (-1) ** seed] for seed in SEEDS]


def comparisons_of(root, baseline="none"):
    return [
        compare(runs, baseline, 0.95, benchmark=name) for name, runs in by_benchmark(root).items()
    ]


def test_p_values_are_adjusted_for_the_benchmarks(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": ABOVE, "redo": MIXED})
    write_runs(tmp_path, "permuted-mnist", {"none": NONE, "syre": MIXED})
    write_runs(tmp_path, "random-labels", {"none": ABOVE, "syre": NONE})
    found = differences(comparisons_of(tmp_path))
    # All eight signs alike: 2 of 256 patterns are as extreme; the smallest of three counts three times, the
    # next two times. MIXED has differences of 0.02 of both signs, four each: every pattern is as extreme.
    smallest = 2 / 256
    assert {name: each.adjusted for name, each in found["syre"].items()} == pytest.approx(
        {
            "permuted-digits": 3 * smallest,
            "permuted-mnist": 1.0,
            "random-labels": 3
            * smallest,  # the second of two equal ones is no smaller than the first
        }
    )
    assert {name: each.verdict for name, each in found["syre"].items()} == {
        "permuted-digits": "better",
        "permuted-mnist": "no difference seen",
        "random-labels": "worse",
    }
    assert found["redo"]["permuted-digits"].adjusted == 1.0
    mean = sum(a[0] - b[0] for a, b in zip(ABOVE, NONE, strict=True)) / 8
    assert found["syre"]["permuted-digits"].estimate.mean == pytest.approx(mean)


def test_less_of_a_loss_is_better(tmp_path):
    for benchmark, low in (("permuted-digits", "syre"), ("slowly-changing-regression", "none")):
        values = {"none": ABOVE, "syre": ABOVE} | {low: NONE}
        write_runs(tmp_path, benchmark, values, metric="online_loss")
    found = differences(comparisons_of(tmp_path))["syre"]
    assert found["permuted-digits"].estimate.mean < 0
    assert [each.verdict for each in found.values()] == ["better", "worse"]


def test_the_table_has_a_column_for_each_benchmark(tmp_path, capsys):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": ABOVE, "redo": MIXED})
    write_runs(tmp_path, "permuted-mnist", {"none": NONE, "syre": NONE})
    comparisons = comparisons_of(tmp_path)
    table = differences_table(comparisons)
    assert table.title == "Differences to none on each benchmark"
    assert table.columns == ("method", "permuted-digits", "permuted-mnist")
    rows = {row[0].text: row[1:] for row in table.rows}
    assert rows["syre"][0].text == "+10.09"
    assert rows["syre"][0].details[-2:] == ("p = 0.016", "better")
    assert rows["syre"][1].text == "+0.0"
    assert rows["redo"][1].text == "—"
    written = report(ReportConfig((tmp_path,), baseline="none"))
    page = written[0].read_text(encoding="utf-8")
    assert "Differences to none on each benchmark" in page
    assert DIFFERENCES_NOTE in page
    assert "Differences to none on each benchmark" in capsys.readouterr().out


def test_a_benchmark_without_the_baseline_has_no_differences(tmp_path, capsys):
    write_runs(tmp_path / "quick", "permuted-digits", {"none": NONE, "syre": ABOVE})
    write_runs(tmp_path / "narrow", "permuted-digits", {"none": NONE, "redo": ABOVE})
    folders, out = (tmp_path / "quick", tmp_path / "narrow"), tmp_path / "page"
    page = report(ReportConfig(folders, baseline="syre", out=out))[0].read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert printed.count("syre, the baseline, was not run here") == 1
    assert "Differences to syre on each benchmark" in printed
    assert '<th scope="col">narrow/<br>permuted-digits</th>' in page
    with pytest.raises(
        ValueError, match=r"Unknown baseline 'rede'.*'redo'.*Known: 'none', 'syre', 'redo'"
    ):
        report(ReportConfig(folders, baseline="rede", out=out))


def test_many_benchmarks_are_printed_in_parts_that_have_room(tmp_path, capsys):
    combined = "layer-norm+l2-init+shrink-perturb"
    names = ["permuted-digits", "permuted-mnist", "permuted-fashion", "random-labels"]
    names += ["gradual-random-labels", "label-permuted-mnist"]
    for benchmark in names:
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": ABOVE, combined: ABOVE})
    report(ReportConfig((tmp_path,), baseline="none"))
    printed = capsys.readouterr().out
    printed = printed[printed.index("Differences to none") : printed.index("•")]
    assert "…" not in printed
    assert printed.count("Differences to none on each benchmark") == 2
    assert all(printed.count(f" {name} ") == 1 for name in names)
    assert printed.count(" better ") == 12
    # Differences of 10, 10.1, 10.2, 10, 10.1, 10.2, 10, 10.1: 10.0875 ± 2.365 * 0.0835 / sqrt(8)
    assert printed.count("[+10.02, +10.16]") == 12


def test_seeds_without_a_difference_are_counted(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": ABOVE}, diverged={("syre", 2)})
    write_runs(tmp_path, "permuted-mnist", {"none": NONE[:5], "syre": ABOVE})
    table = differences_table(comparisons_of(tmp_path))
    details = [cell.details for cell in table.rows[0][1:]]
    assert ["7 of 8 seeds" in each for each in details] == [True, False]
    assert ["5 of 8 seeds" in each for each in details] == [False, True]


def test_the_level_is_that_of_the_headline_whatever_the_intervals(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE[:4], "syre": ABOVE[:4]})
    wide = [replace(each, confidence=0.5) for each in comparisons_of(tmp_path)]
    (found,) = {each.verdict for each in differences(wide)["syre"].values()}
    assert found == "no difference seen"  # p is 2 / 2**4, twice
    assert "not certain" in headline(wide[0])


def test_there_is_no_table_of_one_benchmark_or_of_two_baselines(tmp_path):
    write_runs(tmp_path / "one", "permuted-digits", {"none": NONE, "syre": ABOVE})
    comparisons = comparisons_of(tmp_path / "one")
    assert differences_table(comparisons) is None
    write_runs(tmp_path / "two", "permuted-digits", {"weight-decay": NONE, "syre": ABOVE})
    write_runs(tmp_path / "two", "permuted-mnist", {"none": NONE, "syre": ABOVE})
    assert differences_table(comparisons_of(tmp_path / "two", baseline=None)) is None
