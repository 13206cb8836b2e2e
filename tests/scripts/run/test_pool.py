"""Runs side by side, in processes of their own."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.mitigations import Syre, WeightDecay
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run import pool
from plasticity.scripts.run import process as run_process
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import run_jobs
from plasticity.scripts.run.runner import Runner
from plasticity.scripts.run.saved_run import is_finished
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

TINY = SupervisedRunConfig(
    benchmark="permuted-digits",
    stream=PermutedImagesConfig(dataset="digits", num_tasks=2),
    network=CNN(channels=(4,), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, batch_size=64),
    tracking=SupervisedTracking(metrics=("effective_rank",), probe_size=32),
)
LONG = with_values(TINY, {"stream.num_tasks": 10_000})


def job(path, config=TINY, changes=None):
    """Return the work of a process with a single run."""
    return JobGroup((Job(path, with_values(config, changes or {})),))


def silent(job, value):
    pass


def content(path):
    return (path / "metrics.jsonl").read_bytes()


def processes():
    return multiprocessing.active_children()


def is_running(pid):
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True
    ).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@contextmanager
def in_another_session(path):
    """Hold a run's lock, as another invocation does."""
    path.mkdir(parents=True)
    with (path / "lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def test_a_run_is_the_same_to_the_byte_alone_or_beside_others(tmp_path):
    methods = {
        "none": (),
        "weight-decay": (WeightDecay(strength=0.01),),
        "syre": (Syre(strength=0.01, sigma=0.3),),
    }
    progress = []
    for jobs in (1, 2):
        outcome = run_jobs(
            [
                job(tmp_path / str(jobs) / name, changes={"method": method})
                for name, method in methods.items()
            ],
            jobs,
            lambda job, value: progress.append((job.path.name, value)),
        )
        assert sorted(path.name for path in outcome.finished) == sorted(methods)
        assert not outcome.failed
        assert not outcome.stopped
        assert outcome.interrupted_by is None
    for name, method in methods.items():
        path = tmp_path / "here" / name
        with RunFolder(path, with_values(TINY, {"method": method})) as folder:
            assert Runner([folder]).execute(lambda: False)
        assert content(path) == content(tmp_path / "1" / name) == content(tmp_path / "2" / name)
        assert (name, 2.0) in progress
    assert not processes()


MAIN = """
import sys
from pathlib import Path

before = set(sys.modules)
from plasticity.scripts.main import main

if __name__ == "__main__":
    main(sys.argv[1:])
else:  # in the process of a run
    Path(__file__).with_name("new").write_text("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_a_run_has_the_code_that_the_command_began_with(tmp_path):
    """A module that a run imports later is that of the checkout as it is by then."""
    (tmp_path / "main.py").write_text(MAIN)
    options = [
        "--tasks",
        "1",
        "--methods",
        "none",
        "--seeds",
        "0",
        "--epochs-per-task",
        "1",
        "--metrics",
    ]
    command = [sys.executable, "main.py", "run", "permuted-digits", *options, "--out", "runs"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    new = (tmp_path / "new").read_text().splitlines()
    assert not [name for name in new if name.startswith("plasticity")]


def test_a_run_that_fails_or_is_killed_or_diverges_does_not_stop_the_others(tmp_path):
    def kill(other, value):
        if other.path.name == "killed" and value > 0:
            for process in processes():
                if process.name.endswith("killed"):
                    os.kill(process.pid, signal.SIGKILL)

    file = tmp_path / "file"
    file.write_text("")
    diverging = {"agent": ClassifierConfig(learning_rate=1e20, batch_size=64)}
    missing = {"stream.dataset": "images", "stream.data_dir": str(tmp_path / "nothing")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "PROGRESS_INTERVAL_SECONDS", 0.05)
        outcome = run_jobs(
            [
                job(tmp_path / "killed", LONG),
                job(file / "unwritable"),
                job(tmp_path / "diverges", LONG, diverging),
                job(tmp_path / "missing", changes=missing),
                job(tmp_path / "sound"),
            ],
            2,
            kill,
        )
    assert {path.name for path in outcome.finished} == {"diverges", "sound"}
    assert [path.name for path in outcome.diverged] == ["diverges"]
    messages = {path.name: message for path, message in outcome.failed.items()}
    assert messages.keys() == {"killed", "unwritable", "missing"}
    assert messages["killed"] == "its process was ended by SIGKILL"
    assert messages["unwritable"].startswith(f"Cannot write to {file / 'unwritable'}")
    assert "--data-dir" in messages["missing"]
    assert not any("Traceback" in message for message in messages.values())
    assert b'"diverged": true' in content(tmp_path / "diverges")
    assert is_finished(tmp_path / "diverges", with_values(LONG, diverging))


def test_a_run_in_use_is_left_to_the_other_process(tmp_path):
    with in_another_session(tmp_path / "used"):
        outcome = run_jobs([job(tmp_path / "used"), job(tmp_path / "free")], 2, silent)
    assert [path.name for path in outcome.finished] == ["free"]
    assert [path.name for path in outcome.in_use] == ["used"]
    assert not outcome.failed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_every_run_write_a_checkpoint(tmp_path, number):
    begun = set()

    def interrupt(job, value):
        begun.add(job.path)
        if len(begun) == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    paths = [tmp_path / name for name in ("one", "two", "waiting")]
    outcome = run_jobs([job(path, LONG) for path in paths], 2, interrupt)
    assert outcome.interrupted_by == number
    assert sorted(outcome.stopped) == sorted(paths)
    assert not outcome.failed
    for path in paths[:2]:
        saved = torch.load(path / "checkpoint.pt", weights_only=True)
        metrics = path / "metrics.jsonl"
        assert saved["lengths"]["metrics"] == (metrics.stat().st_size if metrics.exists() else 0)
    assert not paths[2].exists()
    assert signal.getsignal(number) == before
    assert not processes()


def test_an_error_of_the_caller_stops_the_runs_in_order(tmp_path):
    def fail(job, value):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_jobs([job(tmp_path, LONG)], 1, fail)
    assert not processes()
    assert (tmp_path / "checkpoint.pt").exists()


def test_runs_end_with_the_server_that_forked_them(tmp_path):
    """Kill the server: otherwise runs would go on unnoticed, and keep their locks."""
    from multiprocessing import forkserver

    begun = []

    def kill(job, value):
        if not begun:
            begun.append([process.pid for process in processes()])
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)

    outcome = run_jobs([job(tmp_path / "a", LONG), job(tmp_path / "b")], 1, kill)
    assert "its process ended with exit code" in outcome.failed[tmp_path / "a"]
    assert outcome.finished == [tmp_path / "b"], outcome  # in a new server
    deadline = time.monotonic() + 20
    while is_running(begun[0][0]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(begun[0][0])


def test_ctrl_c_during_an_import_that_ignores_exceptions_is_not_lost(tmp_path, monkeypatch):
    def imports(work):
        with suppress(KeyboardInterrupt):  # as some libraries do
            os.kill(os.getpid(), signal.SIGINT)
        return []

    monkeypatch.setattr(pool, "_preloaded", imports)
    outcome = run_jobs([job(tmp_path)], 1, silent)
    assert outcome.interrupted_by == signal.SIGINT
    assert outcome.stopped == [tmp_path]


def test_the_server_ignores_signals(tmp_path):
    """Signal the server, as happens with the whole group; with it, the results would be lost."""
    from multiprocessing import forkserver

    sent = []

    def signal_it(job, value):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(forkserver._forkserver._forkserver_pid, number)
            sent.append(number)

    outcome = run_jobs([job(tmp_path, changes={"stream.num_tasks": 10})], 1, signal_it)
    assert outcome.finished == [tmp_path]
    assert len(sent) >= 4  # at the beginning and at the end


def test_a_run_has_one_thread_and_reports_its_outcome(tmp_path, monkeypatch):
    found = []
    failures = iter([ValueError("a sentence"), ZeroDivisionError("a bug")])

    class Events:
        def send(self, message):
            found.append(message)

    def train(*_, **__):
        found.append(torch.get_num_threads())
        raise next(failures)

    monkeypatch.setattr(run_process, "_train", train)
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        for _ in range(2):
            torch.set_num_threads(2)
            run_process.do_work(job(tmp_path), Events())
    finally:
        signal.signal(signal.SIGTERM, before)
        torch.set_num_threads(threads)
    assert found[0] == found[2] == 1
    assert found[1] == ("results", {0: ("failed", "a sentence")})
    kind, text = found[3][1][0]
    assert kind == "failed"
    assert text.startswith("Traceback")
    assert text.rstrip().endswith("ZeroDivisionError: a bug")
