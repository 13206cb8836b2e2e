"""What methods are compared by: another metric, another moment, averages without the beginning."""

import pytest
from made_runs import write_runs

from plasticity.scripts.report.across import across
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import Criterion, compare
from plasticity.scripts.report.headline import headline
from plasticity.scripts.report.run_folders import by_benchmark, find_runs
from plasticity.scripts.report.significance import evidence
from plasticity.scripts.report.tables import metric_table


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
        ReportConfig(tmp_path, skip=-1)


def test_the_page_says_it(runs, tmp_path):
    by = ReportConfig(
        tmp_path, by=("test_accuracy",), moment="average", skip=1, out=tmp_path / "out"
    )
    page = report(by)[0].read_text(encoding="utf-8")
    assert "averaged over the tasks but the first task" in page
