"""Rank correlations against scipy's, by hand, and over many draws; tables of made-up runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import write_run
from scipy.stats import spearmanr

from plasticity.scripts.report.aggregates import rank_correlation
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.prediction import prediction_note, prediction_table
from plasticity.scripts.report.run_folders import find_runs


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=12))
def test_one_group_is_spearmans(pairs):
    values = np.array(pairs, dtype=float)
    found = rank_correlation([values])
    if len(set(values[:, 0])) == 1 or len(set(values[:, 1])) == 1:
        assert found is None
    else:
        assert found.value == pytest.approx(spearmanr(*values.T).statistic)
        assert found.low <= found.value <= found.high


def test_levels_of_groups_do_not_count():
    # Each group falls, though the groups together rise.
    groups = [np.array([[0, 2], [1, 1], [2, 0]]) + 10 * level for level in range(3)]
    assert rank_correlation(groups).value == pytest.approx(-1.0)
    assert rank_correlation([np.concatenate(groups)]).value == pytest.approx(0.8)


def test_the_interval_by_hand():
    # d = 1, 1, 0, 0, 0, 0, 0: r = 1 - 6 * 2 / (7 * 48); atanh, ± 1.96 * sqrt(1.06 / 4)
    found = rank_correlation([np.array([[1, 2], [2, 1], [3, 3], [4, 4], [5, 5], [6, 6], [7, 7]])])
    assert found.value == pytest.approx(1 - 12 / 336)
    reach = 1.959964 * np.sqrt(1.06 / 4)
    ends = np.tanh(np.arctanh(1 - 12 / 336) + np.array([-reach, reach]))
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_the_interval_covers_no_correlation():
    generator = np.random.default_rng(0)
    outside = 0
    for _ in range(1000):
        found = rank_correlation([generator.normal(size=(8, 2)) for _ in range(4)])
        outside += not found.low <= 0 <= found.high
    assert 25 <= outside <= 85  # 5 % of 1000, ± 5 deviations


def test_too_few_pairs_have_none():
    assert rank_correlation([]) is None
    assert rank_correlation([np.array([[1.0, 2.0], [2.0, 1.0]])] * 2) is None
    with pytest.raises(ValueError, match="must be finite"):
        rank_correlation([np.array([[1.0, np.nan]] * 5)])


@pytest.mark.parametrize(("count", "low"), [(4, -0.7256), (5, 0.0453)])
def test_all_in_order_is_as_sure_as_there_are_values(count, low):
    # next to 1: 1 - 12 / (n (n² - 1)), 0.8 and 0.9; atanh, minus 1.96 * sqrt(1.06 / (n - 3)).
    # By chance 2 of n! orders are as extreme: 8 % with four values, 1.7 % with five.
    values = np.arange(count, dtype=float)
    found = rank_correlation([np.stack([values, values], axis=1)])
    assert (found.value, found.high) == pytest.approx((1.0, 1.0))
    assert found.low == pytest.approx(low, abs=1e-4)
    found = rank_correlation([np.stack([values, -values], axis=1)])
    assert (found.low, found.value) == pytest.approx((-1.0, -1.0))
    assert found.high == pytest.approx(-low, abs=1e-4)


def test_groups_without_an_order_do_not_count():
    group = np.array([[1, 2], [2, 1], [3, 3], [4, 4], [5, 5]], dtype=float)
    constant = np.array([[0, each] for each in range(9)], dtype=float)
    assert rank_correlation([group, constant]) == rank_correlation([group])
    pair = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert rank_correlation([pair, constant]) is None


def write(root, method, seed, rank, gap, tasks=4):
    rows = [
        {"task": task, "test_accuracy": 0.5, "effective_rank/fc1": rank if task == 1 else 7.0}
        for task in range(tasks)
    ]
    rows[0]["plasticity_gap"], rows[-1]["plasticity_gap"] = 0.0, gap
    write_run(root, "permuted-digits", method, seed, rows, tasks=4)


def table_of(root):
    return prediction_table(compare(find_runs(root), None, 0.95))


def test_a_measure_at_a_third_of_the_run_is_compared_with_the_gap_at_its_end(tmp_path):
    for number, method in enumerate(["none", "weight-decay", "syre", "redo"]):
        for seed in range(3):  # within a method the gap falls with the rank; across, it rises
            write(tmp_path, method, seed, 10.0 * number + seed, 0.1 * number - 0.01 * seed)
    (row,) = table_of(tmp_path).rows
    assert [cell.text for cell in row] == ["effective rank, fc1", "-1.00", "+1.00"]
    assert row[1].details[1] == "12 values"
    assert row[2].details[1] == "4 values"
    page = report(ReportConfig((tmp_path,)))[0].read_text(encoding="utf-8")
    assert "What predicts the plasticity gap" in page


def test_methods_are_compared_at_one_task(tmp_path):
    for number, method in enumerate(["none", "weight-decay", "syre", "redo", "l2-init"]):
        # the last one is unfinished: its gap at task 1 is not that of the others at task 3
        is_short = method == "l2-init"
        for seed in range(2):
            gap = 5.0 if is_short else 0.1 * number
            write(tmp_path, method, seed, float(number), gap, tasks=2 if is_short else 4)
    (row,) = table_of(tmp_path).rows
    assert row[2].text == "+1.00"
    assert row[2].details[1] == "4 values"


def test_methods_of_a_single_seed_are_compared_with_each_other(tmp_path):
    for number, method in enumerate(["none", "weight-decay", "syre", "redo"]):
        write(tmp_path, method, 0, float(number), 0.1 * number)
    (row,) = table_of(tmp_path).rows
    assert [cell.text for cell in row[1:]] == ["—", "+1.00"]


def test_the_note_has_the_coverage_of_the_intervals():
    assert "Fieller's 90 % intervals" in prediction_note(0.9)
    assert "about 10 % of the intervals are without 0 by chance" in prediction_note(0.9)


def test_too_few_methods_are_not_compared_across(tmp_path):
    for seed in range(6):
        write(tmp_path, "none", seed, float(seed % 4), float(seed))
    (row,) = table_of(tmp_path).rows
    assert row[2].text == "—"


def test_without_a_gap_or_runs_there_is_no_table(tmp_path):
    write(tmp_path, "none", 0, 1.0, 0.5)
    assert table_of(tmp_path) is None
    file = tmp_path / "permuted-digits" / "none" / "seed_0" / "metrics.jsonl"
    file.write_text('{"task": 0, "test_accuracy": 0.5, "effective_rank/fc1": 1.0}\n')
    assert table_of(tmp_path) is None
