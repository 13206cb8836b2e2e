"""The page of the comparison has the tables that its rows give."""

import importlib
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "comparison.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "comparison")  # as if run as a script
        yield importlib.import_module("tables")


@pytest.fixture
def measures(tables):
    return sys.modules["measures"]


@pytest.fixture
def order(tables):
    return sys.modules["order"]


def test_the_page_has_every_table_whole(tables):
    for heading, lines in tables.sections().items():
        assert "\n".join(lines) in PAGE, f"{heading}: run python docs/comparison/tables.py"


def test_the_page_has_no_other_table_of_the_finals(tables):
    made = {line for lines in tables.sections().values() for line in lines}
    written = PAGE[PAGE.index("## Finals, stream 1") :].splitlines()
    assert [line for line in written if line.startswith("|") and line not in made] == []


def test_a_run_that_diverged_has_the_worst_value(measures, monkeypatch):
    values = {"none": {0: 0.5, 1: None}, "syre": {0: 0.75, 1: 0.25}}

    class Arm:
        positions = (0, 1)

        def __init__(self, label):
            self.label = label

    class Comparison:
        arms = tuple(map(Arm, values))

    monkeypatch.setattr(measures, "comparison_of", lambda file, stream: Comparison)
    monkeypatch.setattr(measures, "values_at", lambda arm, metric, moment, where: values[arm.label])
    found = measures.primary(measures.Stream(1))
    assert found == {"none": {0: 50.0, 1: 0.0}, "syre": {0: 75.0, 1: 25.0}}
    found = measures.primary(measures.Stream(1, "online_loss"))
    assert found["none"] == {0: 0.5, 1: 0.75}
    found = measures.primary(measures.Stream(1, "episode_return"))
    assert found["none"] == {0: 0.5, 1: 0.25}


@pytest.fixture(scope="module")
def cartpole_rows():
    """Rows of the plain agent's ten runs on stream 7."""
    runs = []
    with tarfile.open(DOCS / "comparison" / "finals_7.tar.xz") as archive:
        for seed in range(10):
            name = f"offset-cartpole/none/seed_{seed}/metrics.jsonl"
            runs.append([json.loads(line) for line in archive.extractfile(name)])
    return runs


def average(rows, start, end):
    """Compute the mean return over steps by hand: a row stands for the steps since the one before it."""
    before, total = start, 0.0
    for row in (row for row in rows if start < row["step"] <= end):
        total += (row["step"] - before) * row["episode_return"]
        before = row["step"]
    return total / (end - start)


def cells_of(lines, method):
    (row,) = (line for line in lines if line.startswith(f"| `{method}`"))
    return row.strip("| ").split(" | ")


def test_returns_are_averaged_over_the_steps_of_a_task(tables, cartpole_rows):
    spans = (16_000, 160_000), (0, 16_000), (144_000, 160_000)  # tasks 1 to 9, the first, the last
    expected = [sum(average(rows, *span) for rows in cartpole_rows) / 10 for span in spans]
    lines = tables.stream_table(tables.Stream(7, "episode_return"), "finals_7", "syre")
    cells = cells_of(lines, "none")
    found = [float(cells[column].split()[0]) for column in (1, 4, 5)]
    assert found == pytest.approx(expected, abs=0.05)


def test_tasks_that_fail_are_counted(tables, cartpole_rows):
    failed = [
        sum(average(rows, start, start + 16_000) < 10 for start in range(16_000, 160_000, 16_000))
        for rows in cartpole_rows
    ]
    lines = tables.failures_table(tables.Stream(7, "episode_return"), 10)
    assert cells_of(lines, "none")[1:] == [str(sum(failed)), str(sum(map(bool, failed)))]


def rows_of(file):
    """Yield the method and the rows of each run of a file."""
    with tarfile.open(DOCS / "comparison" / f"{file}.tar.xz") as archive:
        for name in archive.getnames():
            if name.endswith("metrics.jsonl"):
                rows = [json.loads(line) for line in archive.extractfile(name)]
                yield name.split("/")[-3], rows


def test_the_text_has_the_entropies_of_policies_that_fail():
    counts = {True: [0, 0], False: [0, 0]}
    for _, rows in rows_of("finals_7"):
        for row in rows:
            if not row["boundary"] and row["episode_return"] is not None:
                count = counts[row["episode_return"] < 10]
                count[0] += 1
                count[1] += row["policy_entropy"] < 0.01
    (failed, without), (others, few) = counts[True], counts[False]
    assert f"of {failed} rows with a return below 10, {without} have an entropy" in PAGE
    assert f"and of {others} others {few}." in PAGE


def test_the_text_has_the_last_segments_of_the_plain_network():
    abrupt, gradual = (
        np.mean(
            [
                [100 * rows[segment]["online_accuracy"] for segment in range(9, 100, 10)]
                for method, rows in rows_of(f"finals_6_{form}")
                if method == "none"
            ],
            axis=0,
        )
        for form in ("abrupt", "gradual")
    )
    assert (
        f"falls from {abrupt[0]:.1f} % in the first task to {abrupt[3]:.1f} in the fourth and"
        f" {abrupt[9]:.1f} in the last one with abrupt changes, and from {gradual[4]:.1f} in the fifth to"
        f" {gradual[9]:.1f} with gradual ones"
    ) in PAGE


def test_segments_without_a_mixture_are_the_later_halves_of_the_tasks(order):
    """By hand, from the rows: segments 15 to 19, 25 to 29 and so on; the first task does not count."""
    with tarfile.open(DOCS / "comparison" / "finals_6_gradual.tar.xz") as archive:
        lines = archive.extractfile("gradual-random-labels/none/seed_3/metrics.jsonl")
        rows = [json.loads(line) for line in lines]
    pure = [row for row in rows if row["base_task"] > 0 and row["share_before"] == 0]
    assert len(pure) == 9 * 5
    expected = 100 * sum(row["online_accuracy"] for row in pure) / len(pure)
    _, gradual = order.unmixed_forms()
    assert gradual["none"][3] == pytest.approx(expected)


def test_kendalls_tau_is_scipys(order):
    values = np.random.default_rng(0).normal(size=(2, 30, 11))
    expected = [kendalltau(one, other).statistic for one, other in zip(*values, strict=True)]
    assert order.kendall(*values) == pytest.approx(expected)


def test_the_bootstrap_draws_seeds_of_both_forms_together(order):
    """The second form has the first one's noise of each seed, which changes every order: tau stays 1."""
    noise = np.random.default_rng(0).normal(size=(4, 6))
    assert order.bootstrapped_tau(noise, noise) == (1.0, 1.0, 1.0)
    other = np.random.default_rng(1).normal(size=(4, 6))
    value, low, high = order.bootstrapped_tau(noise, other)
    assert value == pytest.approx(kendalltau(noise.mean(axis=1), other.mean(axis=1)).statistic)
    assert low < high


def test_halves_of_the_seeds_share_none(order):
    """Of two seeds with opposite orders, one is in each half: an order kept would have a tau of 1."""
    values = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])
    assert order.tau_of_halves(values, values) == (-1.0, -1.0, -1.0)
    assert order.tau_of_halves(values, values[:, ::-1]) == (1.0, 1.0, 1.0)


def test_pairs_are_reversed_if_both_differences_are_significant(order):
    def values(mean, spread=0.0):
        return {seed: mean + spread * (-1) ** seed for seed in range(20)}

    abrupt = {"a": values(1.0), "b": values(2.0), "c": values(5.0), "d": values(0.0)}
    gradual = {"a": values(2.0), "b": values(1.0), "c": values(6.0), "d": values(3.0, 9.0)}
    found = order.reversed_pairs(abrupt, gradual)
    assert list(found) == [("a", "b")], "d is above a and b, but not significantly"
    assert [each.mean for each in found["a", "b"]] == [-1.0, 1.0]
