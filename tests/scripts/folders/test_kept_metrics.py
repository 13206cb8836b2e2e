"""Compressed files with some of the metrics: what stays, and where that is refused."""

import json

import pytest

from plasticity.scripts.folders.collect import CollectConfig, collect
from plasticity.scripts.report.run_folders import find_runs

ROW = {
    "task": 0,
    "diverged": False,
    "test_accuracy": 0.1 + 0.2,  # 0.30000000000000004, which has to come back
    "train_loss": 1.5,
    "effective_rank/fc1": 3.0,
    "effective_rank/fc2": float("nan"),
}


@pytest.fixture
def runs(tmp_path, make_run):
    path = make_run(tmp_path / "runs")
    half_written = '{"task": 1, "é'.encode()[:-1]  # cut within a character
    (path / "metrics.jsonl").write_bytes(f"{json.dumps(ROW)}\n".encode() + half_written)
    (path / "episodes.jsonl").write_text('{"step": 1, "return": 2.0}\n')
    return tmp_path / "runs"


def kept(runs, *metrics):
    archive = runs.with_name("some.tar.xz")
    collect(CollectConfig((runs,), archive, metrics))
    collect(CollectConfig((archive,), runs.with_name("back")))
    (run,) = find_runs(runs.with_name("back"))
    files = sorted(file.name for file in run.path.iterdir())
    return files, run.rows, run.config


def test_other_metrics_and_episodes_are_left_out(runs):
    files, rows, config = kept(runs, "test_accuracy")
    assert files == ["config.json", "metrics.jsonl"]
    assert rows == ({"task": 0.0, "diverged": 0.0, "test_accuracy": 0.1 + 0.2},)
    (run,) = find_runs(runs)
    assert config == run.config
    assert len(run.metrics) == 4, "the runs themselves stay whole"
    assert (run.path / "episodes.jsonl").exists()


def test_a_family_stays_with_all_its_layers(runs):
    _, rows, _ = kept(runs, "effective_rank", "train_loss")
    assert list(rows[0]) == ["task", "diverged", "train_loss", *list(ROW)[-2:]]


def test_what_the_task_is_stays(tmp_path, make_run):
    path = make_run(tmp_path / "runs")
    config = json.loads((path / "config.json").read_text()) | {"benchmark": "gradual-random-labels"}
    (path / "config.json").write_text(json.dumps(config))
    row = {"task": 0, "base_task": 0, "share_before": 0.5, "online_accuracy": 0.1, "train_loss": 2}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    _, rows, _ = kept(tmp_path / "runs", "online_accuracy")
    assert list(rows[0]) == ["task", "base_task", "share_before", "online_accuracy"]


def test_an_unknown_metric_is_an_error_that_leaves_no_file(runs):
    with pytest.raises(ValueError, match=r"Unknown metric 'test_acuracy'.*'test_accuracy'"):
        kept(runs, "test_acuracy")
    assert not runs.with_name("some.tar.xz").exists()


def test_whole_runs_are_not_mixed_with_others(runs, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, whose runs stay whole: give.*\.tar\.xz"):
        collect(CollectConfig((runs,), tmp_path / "out", ("test_accuracy",)))
    archive = tmp_path / "all.tar.xz"
    collect(CollectConfig((runs,), archive))
    before = archive.read_bytes()
    with pytest.raises(ValueError, match=r"exists, and its rows may have other metrics"):
        collect(CollectConfig((runs,), archive, ("test_accuracy",)))
    assert archive.read_bytes() == before


def test_runs_without_the_metric_are_named(runs, make_run, capsys):
    make_run(runs, "syre")
    collect(CollectConfig((runs,), runs.with_name("some.tar.xz"), ("train_loss",)))
    assert "1 runs have none of train_loss." in capsys.readouterr().err


def test_nothing_is_packed_while_all_runs_are_running(runs, monkeypatch):
    monkeypatch.setattr("plasticity.scripts.folders.collect.is_locked", lambda file: True)
    with pytest.raises(ValueError, match=r"Nothing to pack into .*: all runs are still running"):
        kept(runs, "test_accuracy")
    assert not runs.with_name("some.tar.xz").exists()
