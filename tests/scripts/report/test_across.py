"""Aggregates over benchmarks, of scores that are chosen by hand."""

import json

import numpy as np
import pytest
from made_runs import by_benchmark, write_run, write_runs

from plasticity.scripts.report.across import (
    across,
    across_headline,
    across_notes,
    across_table,
    improvement_table,
)
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.differences import differences_table

NONE = [[0.1], [0.2], [0.3], [0.4]]
SYRE = [[0.5], [0.6], [0.7], [0.8]]


def across_of(root):
    return across([compare(runs, None, 0.95) for runs in by_benchmark(root).values()])


def test_shares_are_scores_as_they_are(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    write_runs(tmp_path, "permuted-mnist", {"none": NONE, "syre": SYRE})
    found = across_of(tmp_path)
    assert set(found.benchmarks) == {"permuted-digits", "permuted-mnist"}
    assert found.scores["none"] == pytest.approx(np.array([[x[0]] * 2 for x in NONE]))
    table = across_table(found)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    # the middle four of 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4; every run beats every other
    assert rows == {"none": ["0.250", "baseline"], "syre": ["0.650", "1.000"]}
    assert table.rows[1][2].details == ("(1.000, 1.000)",)
    text = across_headline(found)
    assert text.startswith(
        "Over 2 benchmarks, syre has the highest interquartile mean: 0.650 (none 0.250)."
    )
    assert "beats one of none with probability 1.00, 95 % bootstrap interval 1.00 to 1.00" in text
    assert "the interval is without 0.5 (by 4 seeds" in text


def test_other_metrics_are_scaled_between_the_worst_and_the_best_run(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.2], [0.4]], "syre": [[0.6], [0.3]]})
    # A loss: lower is better, from 3 (worst) to 1 (best).
    write_runs(
        tmp_path,
        "permuted-mnist",
        {"none": [[3.0], [2.0]], "syre": [[1.0], [1.5]]},
        metric="test_loss",
    )
    found = across_of(tmp_path)
    scores = {
        method: dict(zip(found.benchmarks, each.T.tolist(), strict=True))
        for method, each in found.scores.items()
    }
    assert scores["none"]["permuted-digits"] == pytest.approx([0.0, 0.5])
    assert scores["syre"]["permuted-digits"] == pytest.approx([1.0, 0.25])
    assert scores["none"]["permuted-mnist"] == pytest.approx([0.0, 0.5])
    assert scores["syre"]["permuted-mnist"] == pytest.approx([1.0, 0.75])
    assert "the worst run on a benchmark has 0" in found.meaning


def test_only_methods_of_all_benchmarks_count_and_as_many_seeds_of_each(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE, "redo": NONE})
    write_runs(tmp_path, "permuted-mnist", {"none": NONE[:2], "syre": SYRE})
    for path in (tmp_path / "permuted-mnist" / "none").glob("seed_*"):
        # Seeds of two benchmarks have nothing in common.
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "seed": config["seed"] + 100}))
    found = across_of(tmp_path)
    # none's seeds 0 and 1 of the one, 100 and 101 of the other
    assert found.scores["none"].tolist() == [[0.1, 0.1], [0.2, 0.2]]
    assert {method: each.shape for method, each in found.scores.items()} == {
        "none": (2, 2),
        "syre": (4, 2),
    }
    assert found.left_out == ("redo",)
    assert found.cut == ("none",)
    assert any(
        note.startswith("none: of a benchmark with more seeds") for note in across_notes(found)
    )


def test_one_benchmark_has_no_aggregates(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE})
    assert across_of(tmp_path) is None


def test_no_method_on_all_benchmarks_is_no_aggregate(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE})
    write_runs(tmp_path, "permuted-mnist", {"syre": SYRE})
    assert across_of(tmp_path) is None


def test_a_difference_of_both_directions_is_not_shown(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    write_runs(tmp_path, "permuted-mnist", {"none": SYRE, "syre": NONE})
    text = across_headline(across_of(tmp_path))
    assert "with probability 0.50" in text
    assert "neither is shown to be better" in text


def test_without_a_common_baseline_one_is_to_be_chosen(tmp_path):
    write_runs(
        tmp_path, "permuted-digits", {"none": [[0.1]], "syre": [[0.2]], "weight-decay": [[0.3]]}
    )
    write_runs(tmp_path, "permuted-mnist", {"none": [[0.1]], "syre": [[0.2]]})
    runs = by_benchmark(tmp_path).values()
    assert "name a method with --baseline" in across_headline(
        across([compare(r, None, 0.95) for r in runs])
    )
    text = across_headline(across([compare(r, "none", 0.95) for r in runs]))
    assert "A run of syre beats one of none with probability 1.00" in text


def test_a_setting_that_is_not_the_best_of_its_method_is_no_baseline_of_the_methods(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": SYRE, "syre": SYRE}, settings={"sigma": 0.1})
        for seed, rows in enumerate(NONE):
            row = {"task": 0, "test_accuracy": rows[0]}
            write_run(tmp_path / "low", benchmark, "syre", seed, [row], settings={"sigma": 1.0})
    runs = by_benchmark(tmp_path).values()
    assert across([compare(r, "syre", 0.95) for r in runs]).baseline == "syre"
    low = [compare(r, "syre (sigma 1)", 0.95) for r in runs]
    assert across(low).baseline is None
    table = differences_table(low)
    assert table.title == "Differences to syre (sigma 1) on each benchmark"
    assert {row[0].text: row[1].text for row in table.rows} == {"none": "+40.0", "syre": "+40.0"}


def test_methods_that_diverged_are_named_also_where_they_are_left_out(tmp_path):
    values = {"none": NONE, "syre": SYRE}
    write_runs(tmp_path, "permuted-digits", {**values, "redo": NONE}, diverged={("redo", 1)})
    write_runs(tmp_path, "permuted-mnist", values)
    assert any("Runs of redo diverged" in note for note in across_notes(across_of(tmp_path)))


def test_a_single_seed_has_no_interval(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE[:1], "syre": SYRE[:1]})
    found = across_of(tmp_path)
    assert across_table(found).rows[1][1].details == ("one seed",)
    assert across_headline(found).endswith("by a single seed, which is no evidence.")


def test_profiles_fall_from_the_lowest_score_to_the_highest(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": NONE, "syre": SYRE})
    thresholds, shares = across_of(tmp_path).profiles
    assert (thresholds[0], thresholds[-1]) == pytest.approx((0.1, 0.8))
    share, low, high = shares["none"]
    # above 0.1: 0.2, 0.3 and 0.4 of four
    assert share[0] == 0.75
    assert share[-1] == 0.0
    assert np.all(low <= share)
    assert np.all(share <= high)
    assert np.all(np.diff(share) <= 0)


def test_every_method_is_compared_with_every_other(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        values = {"none": NONE, "syre": SYRE, "redo": [[0.3], [0.35], [0.6], [0.9]]}
        write_runs(tmp_path, benchmark, values)
    found = across_of(tmp_path)
    methods, values = found.improvements
    assert methods == ["syre", "redo", "none"]
    # syre over redo: 0.5 and 0.6 beat two each and 0.6 ties with one, 0.7 and 0.8 beat three: 10.5 of 16;
    # redo over none: 0.3 beats two and ties with one, 0.35 beats three, the others all: 13.5 of 16
    expected = [[0.5, 10.5 / 16, 1.0], [5.5 / 16, 0.5, 13.5 / 16], [0.0, 2.5 / 16, 0.5]]
    assert values == pytest.approx(np.array(expected))
    table = improvement_table(found)
    assert table.columns == ("method", *methods)
    assert [cell.text for cell in table.rows[0]] == ["syre", "", "0.66", "1.00"]


def test_a_run_that_diverged_has_a_share_of_nothing(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    values = {"none": NONE, "syre": [*SYRE[:3], [None]]}
    write_runs(tmp_path, "permuted-mnist", values, diverged=[("syre", 3)])
    found = across_of(tmp_path)
    assert found.diverged == ("syre",)
    assert sorted(found.scores["syre"].ravel()) == [0.0, 0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8]
    # the middle four: 0.5, 0.6, 0.6, 0.7; beats none in 16 of 16 pairs there, 12 of 16 here
    text = across_headline(found)
    assert "syre has the highest interquartile mean: 0.600 (none 0.250)." in text
    assert "beats one of none with probability 0.88" in text


def test_a_run_that_diverged_is_scaled_as_the_worst_one(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.2], [0.4]], "syre": [[0.6], [0.3]]})
    write_runs(
        tmp_path,
        "permuted-mnist",
        {"none": [[3.0], [2.0]], "syre": [[1.0], [None]]},
        metric="test_loss",
        diverged=[("syre", 1)],
    )
    found = across_of(tmp_path)
    losses = {
        m: each[:, found.benchmarks.index("permuted-mnist")] for m, each in found.scores.items()
    }
    assert losses["none"].tolist() == [0.0, 0.5]  # as bad as the worst run of all
    assert losses["syre"].tolist() == [1.0, 0.0]


def test_a_run_that_diverged_after_the_shared_tasks_is_the_worst_too(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    values = {"none": [[0.1, 0.2]] * 4, "syre": [[0.1, 0.2, 0.3]] * 3 + [[0.5, 0.9, None]]}
    write_runs(tmp_path, "permuted-mnist", values, diverged=[("syre", 3)])
    found = across_of(tmp_path)
    column = found.scores["syre"][:, found.benchmarks.index("permuted-mnist")]
    assert column.tolist() == [0.2, 0.2, 0.2, 0.0]


def test_methods_that_all_diverged_have_nothing(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": NONE, "syre": SYRE})
    write_runs(
        tmp_path,
        "permuted-mnist",
        {"none": [[None]] * 4, "syre": [[None]] * 4},
        metric="test_loss",
        diverged=[(method, seed) for method in ("none", "syre") for seed in range(4)],
    )
    found = across_of(tmp_path)
    column = found.benchmarks.index("permuted-mnist")
    assert {m: each[:, column].tolist() for m, each in found.scores.items()} == {
        "none": [0.0] * 4,
        "syre": [0.0] * 4,
    }
