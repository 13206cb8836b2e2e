"""What methods are compared by: another metric, another moment, averages without the beginning."""

import json

import pytest
from made_runs import by_benchmark, write_runs

from plasticity.scripts.report.across import across
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import Criterion, compare
from plasticity.scripts.report.headline import headline
from plasticity.scripts.report.metric_names import GAP
from plasticity.scripts.report.run_folders import find_runs
from plasticity.scripts.report.significance import evidence
from plasticity.scripts.report.tables import best_table, metric_table


@pytest.fixture
def runs(tmp_path):
    # none is best at the last task; syre over all; redo over all but the first
    values = {
        "none": [[0.1, 0.2, 0.9], [0.1, 0.2, 0.9]],
        "syre": [[1.0, 0.5, 0.4], [1.0, 0.7, 0.2]],
        "redo": [[0.0, 0.7, 0.7], [0.0, 0.6, 0.8]],
    }
    write_runs(tmp_path, "permuted-digits", values)
    return find_runs(tmp_path)


def compared(runs, *by):
    return compare(runs, "none", 0.95, Criterion(*by))


@pytest.mark.parametrize(
    ("by", "best", "when"),
    [
        ((), "none, the baseline,", "at the last task (2): 90.0 %"),
        ((("test_accuracy",), "average"), "syre", "averaged over the tasks: 63.3 %"),  # 1.9 / 3
        (
            (("test_accuracy",), "average", 1),
            "redo",
            "averaged over the tasks but the first task: 70.0 %",
        ),
        (
            (("online_accuracy", "test_accuracy"), "average", 2),
            "none, the baseline,",
            "but the first 2 tasks: 90.0 %",
        ),
        ((("effective_rank/fc1",),), "none, the baseline,", "at the last task (2): 12.5 "),
    ],
)
def test_the_best_by_a_criterion(runs, by, best, when):
    text = headline(compared(runs, *by))
    assert f"Of 3 methods, {best} has the highest" in text
    assert when in text


def test_evidence_and_tables_follow_it(runs):
    found = compared(runs, (), "average", 1)
    assert evidence(found)["redo"].pairs.tolist() == [[0.7, 0.55], [0.7, 0.55]]
    table = metric_table(found, "test_accuracy", found.chosen, full=False)
    assert table.columns[-2:] == ("average", "average minus\nnone")
    assert [row[-2].text for row in table.rows] == ["55.0", "45.0", "70.0"]
    assert "Averages leave out the first task." in found.notes


def test_scores_over_benchmarks_follow_it(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        write_runs(tmp_path, benchmark, {"none": [[0.1, 0.5, 0.7]], "syre": [[0.9, 0.3, 0.3]]})
    by = Criterion((), "average", 1)
    found = across([compare(each, None, 0.95, by) for each in by_benchmark(tmp_path).values()])
    assert found.scores["none"].tolist() == [[pytest.approx(0.6)] * 2]
    assert found.scores["syre"].tolist() == [[pytest.approx(0.3)] * 2]
    assert found.meaning == (
        "A score is what methods are compared by, the test accuracy averaged over the tasks but the first"
        " task."
    )


def test_what_cannot_be_compared_by_is_said(runs, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"permuted-digits have none of test_acuracy .* Did you mean 'test_accuracy'",
    ):
        compared(runs, ("test_acuracy",))
    with pytest.raises(
        ValueError, match=r"the first 3 tasks: the longest run of permuted-digits has 3"
    ):
        compared(runs, (), "average", 3)
    with pytest.raises(ValueError, match="--skip"):
        ReportConfig((tmp_path,), skip=-1)
    with pytest.raises(ValueError, match="Unknown --moment 'median'"):
        ReportConfig((tmp_path,), moment="median")


@pytest.fixture
def gaps(tmp_path):
    """Two settings each of two methods, with a gap at every other task but the last."""
    values = {1e-4: [0.3, 0.5], 1e-3: [0.2, 0.1]}
    for strength, (first, second) in values.items():
        rows = {
            "weight-decay": [[first, None, second, None]],
            "l2-init": [[first, None, 0.4, None]],
        }
        settings = {"strength": strength}
        write_runs(tmp_path / str(strength), "permuted-digits", rows, metric=GAP, settings=settings)
    for file in tmp_path.rglob("metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [{k: v for k, v in row.items() if v is not None} for row in lines]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return find_runs(tmp_path)


@pytest.mark.parametrize(("moment", "best"), [("last", "10.0"), ("average", "15.0")])
def test_settings_are_chosen_by_a_gap_where_it_was_measured(gaps, moment, best):
    found = compare(gaps, None, 0.95, Criterion((GAP,), moment))
    assert found.chosen[0].settings["strength"] == 1e-3
    column = {"last": 2, "average": 3}[moment]
    table = best_table(found)
    assert table.columns[2] == "last\n(task 2)"
    assert table.rows[0][column].text == best
    assert "weight-decay (strength 0.001), the baseline, has the lowest plasticity gap" in headline(
        found
    )


def test_fewer_dead_units_are_better(tmp_path):
    dead = {"none": [[0.1, 0.5]], "syre": [[0.1, 0.2]]}
    write_runs(tmp_path, "permuted-digits", dead, metric="dead_fraction/fc1")
    text = headline(compared(find_runs(tmp_path), ("dead_fraction/fc1",)))
    assert (
        "Of 2 methods, syre has the lowest dead fraction, fc1 at the last task (1): 20.0 %" in text
    )


def test_nothing_is_best_by_what_is_neither_better_nor_worse(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[1.0]]}, metric="weight_norm/total")
    with pytest.raises(ValueError, match=r"compared by weight_norm/total, of which neither more"):
        compared(find_runs(tmp_path), ("weight_norm/total",))


def test_what_methods_are_compared_by_is_shown(runs):
    found = compared(runs, ("effective_rank/fc1",))
    assert found.leading_metrics == ("effective_rank/fc1", "test_accuracy", "effective_rank/fc2")
    assert compared(runs).leading_metrics == ("test_accuracy", "effective_rank/fc2")


def test_scores_of_which_less_is_better_are_scaled(tmp_path):
    for benchmark in ("permuted-digits", "permuted-mnist"):
        dead = {"none": [[0.5]], "syre": [[0.2]]}
        write_runs(tmp_path, benchmark, dead, metric="dead_fraction/fc1")
    by = Criterion(("dead_fraction/fc1",))
    found = across([compare(each, None, 0.95, by) for each in by_benchmark(tmp_path).values()])
    assert {name: scores.tolist() for name, scores in found.scores.items()} == {
        "none": [[0.0, 0.0]],
        "syre": [[1.0, 1.0]],
    }
    assert "scaled" in found.meaning


def test_why_no_method_has_a_value(tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": [[0.1, 0.2, None]], "syre": [[0.3]]}, tasks=3)
    both = find_runs(tmp_path)
    assert "without the first 2 tasks: continue the runs, or give a smaller --skip." in headline(
        compared(both, (), "average", 2)
    )
    alone = [run for run in both if run.method == "none"]
    assert headline(compared(alone)) == (
        "No method has a value of test accuracy at task 2, the last that all share: try --moment average."
    )


def test_the_page_says_it(runs, tmp_path):
    by = ReportConfig(
        (tmp_path,), by=("test_accuracy",), moment="average", skip=1, out=tmp_path / "out"
    )
    page = report(by)[0].read_text(encoding="utf-8")
    assert "averaged over the tasks but the first task" in page
