"""A third kind of experiment, made for the tests alone, goes through every layer that runs one."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from curve_runs import CurveConfig, Points, content, curves, rows, train

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.experiment import Experiment, experiment_class
from plasticity.scripts.run.jobs import Job
from plasticity.scripts.run.pool import run_jobs
from plasticity.scripts.run.saved_run import is_finished, progress_made, require_same_config
from plasticity.scripts.run.stacks import planned

SLOW = {"stream.pause": 0.05}


def members(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("config", [CurveConfig(), *(each.config for each in BENCHMARKS.values())])
def test_the_class_of_every_kind_has_the_members_of_the_protocol(config):
    kind = experiment_class(config)
    missing = members(Experiment) - {name for name in dir(kind) if not name.startswith("_")}
    assert missing <= {"configs"}  # set for each object
    assert kind.modules(config) is not None
    assert kind.can_stack(config) or kind.can_be_alone(config)


def test_a_kind_is_imported_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "another_kind.py").write_text("class Kind: pass")
    monkeypatch.setattr(CurveConfig, "experiment", "another_kind:Kind")
    assert "another_kind" not in sys.modules
    assert experiment_class(CurveConfig()) is sys.modules["another_kind"].Kind


@pytest.mark.parametrize("stack", [1, 3])
def test_killed_in_its_process_and_continued_to_the_byte(tmp_path, stack):
    jobs = [Job(path, config) for path, config in curves(tmp_path / "killed", (1, 2, 3), SLOW)]
    work = planned(jobs, stack)
    assert [len(each.jobs) for each in work] == [stack] * (3 // stack)
    progress, killed = [], set()

    def kill(job, value):
        progress.append((job.path.name, value))
        for process in multiprocessing.active_children():
            if value > 0 and process.name not in killed:
                killed.add(process.name)
                os.kill(process.pid, signal.SIGKILL)

    outcome = run_jobs(work, 1, kill)
    assert outcome.failed.keys() == {job.path for job in jobs}
    assert set(outcome.failed.values()) == {"its process was ended by SIGKILL"}
    assert not any(is_finished(job.path, job.config) for job in jobs)
    outcome = run_jobs(work, 2, lambda job, value: progress.append((job.path.name, value)))
    assert sorted(outcome.finished) == [job.path for job in jobs]
    assert {(name, 4.0) for name in "123"} <= set(progress)
    for path, config in curves(tmp_path / "whole", (1, 2, 3)):
        assert train([(path, config)])
        assert content(tmp_path / "killed" / path.name) == content(path)
        timings = rows(tmp_path / "killed" / path.name, "timings")
        assert timings[-1].get("stacked") == (3 if stack == 3 else None)
        assert progress_made(path, config) == 4
    assert not multiprocessing.active_children()


def test_another_configuration_is_refused_and_a_longer_one_is_not(tmp_path):
    ((path, config),) = curves(tmp_path, [1])
    require_same_config(path, config.to_json(), CurveConfig(seed=1, stream=longer()))
    with pytest.raises(RunError, match=r"rate \(there 0.1, now 0.5\)"):
        require_same_config(path, config.to_json(), CurveConfig(seed=1, rate=0.5))


def longer():
    return type(CurveConfig().stream)(num_points=9)


def test_the_program_does_not_name_its_kinds():
    """The runner, the pool and the command are the same for every kind."""
    folder = Path(sys.modules[experiment_class.__module__].__file__).parent
    kinds = ("control_", "supervised_")
    shared = [f for f in folder.glob("*.py") if not f.name.startswith((*kinds, "stacked_"))]
    for file in shared:
        text = file.read_text()
        for name in (
            "SupervisedRunConfig",
            "ControlRunConfig",
            "SupervisedExperiment",
            "ControlExperiment",
        ):
            assert name not in text, file


@pytest.fixture(autouse=True)
def made():
    yield
    Points.made.clear()
