"""Group of runs in one process: its result, and that of each run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
import torch

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.mitigations import WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run import locks, memory
from plasticity.scripts.run import process as run_process
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.memory import Memory
from plasticity.scripts.run.pool import run_jobs
from plasticity.scripts.run.saved_run import is_finished
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=2),
    network=CNN(channels=(4,), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, batch_size=128),
    tracking=SupervisedTracking(metrics=("effective_rank",), probe_size=32),
)
EXPLODING = with_values(TINY, {"method": (WeightDecay(strength=1e20),)})
SHORT = {"stream.num_tasks": 1}
LONG = {"stream.num_tasks": 32}  # with fewer, a fast machine finishes before the signal arrives


def group(out, *configs, **settings):
    return JobGroup(
        tuple(Job(out / str(index), config) for index, config in enumerate(configs)), **settings
    )


def seeds(count, changes=None):
    return [with_values(TINY, {"seed": seed, **(changes or {})}) for seed in range(count)]


def silent(job, value):
    pass


def content(path):
    return (path / "metrics.jsonl").read_bytes()


def rows(path):
    return [json.loads(line) for line in content(path).splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three stacked runs without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert len(run_jobs([group(out, *seeds(3, LONG))], 1, silent).finished) == 3
    return out


def test_a_group_beside_a_single_run(tmp_path):
    progress = []
    single = JobGroup((Job(tmp_path / "single", TINY),))
    outcome = run_jobs(
        [group(tmp_path, TINY, EXPLODING, with_values(TINY, {"seed": 1})), single],
        2,
        lambda job, value: progress.append((job.path.name, value)),
    )
    assert sorted(path.name for path in outcome.finished) == ["0", "1", "2", "single"]
    assert [path.name for path in outcome.diverged] == ["1"]
    assert not outcome.failed
    assert not outcome.stopped
    assert {name for name, value in progress if value == 2} == {"0", "1", "2", "single"}
    assert rows(tmp_path / "0")[1]["train_loss"] == pytest.approx(
        rows(tmp_path / "single")[1]["train_loss"], rel=1e-4
    )
    assert is_finished(tmp_path / "0", TINY)
    assert not multiprocessing.active_children()


def test_the_last_one_left_of_a_group_is_continued_to_the_byte(tmp_path, whole):
    jobs = group(tmp_path, *seeds(3, LONG)).jobs
    run_jobs([group(tmp_path, *seeds(3, SHORT))], 1, silent)
    outcome = run_jobs([JobGroup(jobs[2:], had_more=True)], 1, silent)
    assert outcome.finished == [tmp_path / "2"]
    assert content(tmp_path / "2") == content(whole / "2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_and_continued_to_the_byte(tmp_path, whole, number):
    jobs = group(tmp_path, *seeds(3, LONG))
    sent = []

    def end(job, value):
        if value >= 1 and not sent:
            sent.append(number)
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)
            else:
                (process,) = multiprocessing.active_children()
                os.kill(process.pid, number)

    outcome = run_jobs([jobs], 1, end)
    paths = [job.path for job in jobs.jobs]
    if number == signal.SIGTERM:
        assert sorted(outcome.stopped) == paths
        assert outcome.interrupted_by == number
    else:
        assert outcome.failed == dict.fromkeys(paths, "its process was ended by SIGKILL")
    outcome = run_jobs([jobs], 1, silent)
    assert sorted(outcome.finished) == paths
    for path in paths:
        assert content(path) == content(whole / path.name)


def test_a_folder_that_cannot_be_written_fails_its_group_by_name(tmp_path):
    (tmp_path / "1").write_text("a file")
    outcome = run_jobs(
        [group(tmp_path, *seeds(2)), group(tmp_path / "other", *seeds(2))], 1, silent
    )
    assert outcome.failed.keys() == {tmp_path / "0", tmp_path / "1"}
    for message in outcome.failed.values():
        assert message.startswith(f"Cannot write to {tmp_path / '1'}")
    assert sorted(outcome.finished) == [tmp_path / "other" / name for name in "01"]


# ---- parts, in this process ---------------------------------------------------------------------


class Events:
    """Connection that keeps what the process reports."""

    def __init__(self):
        self.results, self.notes = {}, []

    def send(self, message):
        kind, value = message
        if kind == "results":
            self.results.update(value)
        elif kind == "note":
            self.notes.append(value)


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def stop():
    return threading.Event()


def fitting(runs):
    """Return a measurement of memory that holds this many runs."""
    return lambda configs: Memory(shared=0, per_run=9 * 10**9, free=runs * 10 * 10**9)


def test_runs_that_do_not_fit_are_trained_in_parts(tmp_path, events, stop, monkeypatch):
    monkeypatch.setattr(run_process, "_memory_of", fitting(2))
    jobs = group(tmp_path, *seeds(3, SHORT), is_measured=True)
    run_process.execute(jobs, events, stop)
    assert events.notes == [
        "3 runs need about 27 GB, 20 GB are free: trained in 2 groups of up to 2."
    ]
    assert events.results == dict.fromkeys(range(3), ("finished", ""))
    stacked = [
        json.loads((tmp_path / name / "timings.jsonl").read_text()).get("stacked") for name in "012"
    ]
    assert stacked == [2, 2, 1]  # the last one with a copy of itself, and not as an ordinary run


def test_measured_runs_are_evenly_spaced_in_the_group(monkeypatch):
    made = []

    class Rehearsing:
        def __init__(self, configs, *, stacked):
            assert stacked
            made.append([each.seed for each in configs])

        def rehearse(self):
            made[-1].append("rehearsed")

        def close(self):
            made[-1].append("closed")

    monkeypatch.setattr(run_process, "experiment_class", lambda config: Rehearsing)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(memory, "_free_bytes", lambda: 1)
    assert run_process._memory_of(seeds(16)).free == 1
    assert made == [[0, 8, "rehearsed", "closed"], [0, 4, 8, 12, "rehearsed", "closed"]]


def test_of_a_group_the_runs_in_use_are_left_out(tmp_path, events, stop, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_PATIENCE_SECONDS", 0.1)
    (tmp_path / "1").mkdir()
    with locks.locked(tmp_path / "1" / "lock"):
        run_process.execute(group(tmp_path, *seeds(2, SHORT)), events, stop)
    assert events.results == {0: ("finished", ""), 1: ("in use", "")}
    run_process.execute(group(tmp_path / "all", *seeds(2, SHORT)), events, stop)
    # As beside the one that was left out.
    assert content(tmp_path / "0") == content(tmp_path / "all" / "0")


def test_runs_that_fit_are_stacked_without_a_note(tmp_path, events, stop, monkeypatch):
    monkeypatch.setattr(run_process, "_memory_of", fitting(3))
    run_process.execute(group(tmp_path, *seeds(3, SHORT), is_measured=True), events, stop)
    assert events.notes == []
    assert events.results == dict.fromkeys(range(3), ("finished", ""))


def test_after_a_part_that_fails_the_next_one_is_trained(tmp_path, events, stop, monkeypatch):
    monkeypatch.setattr(run_process, "_memory_of", fitting(2))
    (tmp_path / "1").write_text("a file")
    jobs = group(tmp_path, *seeds(4, SHORT), is_measured=True)
    run_process.execute(jobs, events, stop)
    assert [events.results[index][0] for index in range(4)] == ["failed"] * 2 + ["finished"] * 2
    assert str(tmp_path / "1") in events.results[0][1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RunError("a sentence"), "a sentence"),
        (torch.cuda.OutOfMemoryError("much"), "2 stacked runs are too many for the memory of cpu"),
    ],
)
def test_an_error_is_the_result_of_runs_that_have_not_ended(
    tmp_path, events, stop, monkeypatch, error, message
):
    def execute(self, should_stop):
        self._end(1, diverged=True)
        raise error

    monkeypatch.setattr(run_process.Runner, "execute", execute)
    run_process.execute(group(tmp_path, *seeds(2)), events, stop)
    assert events.results[1] == ("diverged", "")
    assert events.results[0][0] == "failed"
    assert message in events.results[0][1]


@pytest.mark.parametrize(("most", "stacked"), [(2, 1), (1, None)])
def test_the_last_one_left_is_measured_too(tmp_path, events, stop, monkeypatch, most, stacked):
    monkeypatch.setattr(run_process, "_memory_of", fitting(most))
    jobs = group(tmp_path, *seeds(1, SHORT), is_measured=True, had_more=True)
    run_process.execute(jobs, events, stop)
    assert events.results == {0: ("finished", "")}
    assert events.notes == []
    timing = json.loads((tmp_path / "0" / "timings.jsonl").read_text())
    assert timing.get("stacked") == stacked  # without room for a copy: as an ordinary run


def test_a_part_does_not_begin_after_a_stop(tmp_path, events, stop):
    stop.set()
    run_process.execute(group(tmp_path, *seeds(2)), events, stop)
    assert events.results == dict.fromkeys(range(2), ("stopped", ""))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_runs_are_measured():
    found = run_process._memory_of(seeds(4, {"device": "cuda"}))
    assert 0 < found.per_run < found.free


SIGNALLED_TWICE = """
import os, signal, threading
from types import SimpleNamespace
from plasticity.scripts.run import process

class Event(threading.Event):
    def set(self):
        with self._cond:
            os.kill(os.getpid(), signal.SIGTERM)
        super().set()

def execute(group, events, stop):
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.is_set())

process.threading = SimpleNamespace(Event=Event, Thread=threading.Thread)
process._end_with_parent = lambda: None
process.execute = execute
process.do_work(SimpleNamespace(jobs=[SimpleNamespace(config=SimpleNamespace(imports=()))]), None)
"""


def test_a_second_signal_while_the_first_is_noted_blocks_nothing():
    """A group's signal reaches a run, and the parent passes it on: the event of the stop is locked then."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_TWICE],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "True\n"
