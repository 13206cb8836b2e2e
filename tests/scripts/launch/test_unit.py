"""Unit: what a job reports where its machine, its folder or its clock is not as it should be."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from plasticity.scripts.config.options import default_options
from plasticity.scripts.launch import unit as unit_module
from plasticity.scripts.launch.unit import Report, Unit, settle
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import Outcome
from plasticity.scripts.run.versions import made_by

CONFIG = default_options("permuted-digits").run_config("none", 0)


@pytest.fixture
def idle(monkeypatch):
    """Nothing is trained."""
    monkeypatch.setattr(unit_module, "run_jobs", lambda *_: Outcome())


def unit(path):
    return Unit(JobGroup((Job(path, CONFIG),)), made_by())


def test_a_machine_with_other_code_trains_nothing(tmp_path):
    group = JobGroup((Job(tmp_path / "run", CONFIG),))
    report = Unit(group, {**made_by(), "git_commit": "other"})()
    assert "has other code than the launcher" in report.outcome.failed[tmp_path / "run"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "give an --out that you may write to")],
)
def test_a_full_or_read_only_folder(number, remedy, tmp_path, monkeypatch):
    def refuse(self, **_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert remedy in unit(tmp_path / "run")().outcome.failed[tmp_path / "run"]


def test_relative_paths_count_from_the_launchers_folder(idle, tmp_path, monkeypatch):
    """A Ray that runs already has workers where it was started."""
    for name in ("launcher", "worker"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "launcher")
    submitted = unit(Path("runs/a"))
    monkeypatch.chdir(tmp_path / "worker")
    submitted()
    assert (tmp_path / "launcher/runs/a").is_dir()
    assert not any((tmp_path / "worker").iterdir())


def test_a_machine_that_does_not_see_the_launchers_folder(idle, tmp_path, monkeypatch):
    def of_elsewhere(path):
        return replace(unit(path), folder=tmp_path / "missing")

    monkeypatch.chdir(tmp_path)
    relative = Path("runs/a")
    failed = of_elsewhere(relative)().outcome.failed
    assert "give an --out that begins with /" in failed[relative]
    assert not relative.exists()
    assert not of_elsewhere(tmp_path / "run")().outcome.failed
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize(("ahead", "notes"), [(0.0, 0), (120.0, 1), (-120.0, 1)])
def test_a_clock_that_differs_is_reported(ahead, notes, idle, tmp_path, monkeypatch):
    real = unit_module.time_of_file_system
    monkeypatch.setattr(unit_module, "time_of_file_system", lambda folder: real(folder) - ahead)
    found = unit(tmp_path / "run")().notes
    assert len(found) == notes
    if notes:
        assert f"{ahead:+.0f} s" in found[0]
        assert "Have NTP set it" in found[0]


def test_a_folder_counts_more_than_a_report_that_did_not_come(tmp_path, monkeypatch):
    group = JobGroup((Job(tmp_path / "a", CONFIG), Job(tmp_path / "b", CONFIG)))
    monkeypatch.setattr(unit_module, "is_finished", lambda path, config: path.name == "a")
    outcome, seen = Outcome(), []
    settle(group, "its node vanished", outcome, lambda job, value: seen.append(job.path.name))
    assert outcome.finished == [tmp_path / "a"]
    assert outcome.failed == {tmp_path / "b": "its node vanished"}
    assert seen == ["a"]


def test_results_of_a_report_are_added(tmp_path):
    group = JobGroup(tuple(Job(tmp_path / name, CONFIG) for name in "abcd"))
    own = Outcome([tmp_path / "a"], [tmp_path / "a"], [tmp_path / "b"], {tmp_path / "c": "full"})
    own.in_use.append(tmp_path / "d")
    outcome = Outcome()
    settle(group, Report(own), outcome, lambda job, value: None)
    assert outcome == own
