"""Runs side by side, in processes of one thread each: a group of runs in each."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from plasticity.scripts.run.events import MODULES as TENSORBOARD
from plasticity.scripts.run.experiment import experiment_class
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.process import PROGRESS_INTERVAL_SECONDS, Result, do_work

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PARENTS_SIGNALS = (
    *_STOP_SIGNALS,
    signal.SIGUSR2,
)  # Slurm sends the last before a job's time limit


@dataclass
class Outcome:
    """Results of the jobs."""

    finished: list[Path] = field(default_factory=list)
    """Runs that have all their rows, or ended because they diverged."""

    diverged: list[Path] = field(default_factory=list)
    """Finished runs whose loss became NaN or infinite."""

    stopped: list[Path] = field(default_factory=list)
    """Runs that wrote a checkpoint because they were asked to stop, or were not started."""

    failed: dict[Path, str] = field(default_factory=dict)
    """Runs that ended with an error, with its message."""

    in_use: list[Path] = field(default_factory=list)
    """Runs that another process was working on when their turn came."""

    interrupted_by: signal.Signals | None = None
    """Signal that stopped the runs; None if there was none."""


@dataclass
class _Running:
    jobs: tuple[Job, ...]
    process: BaseProcess
    events: Connection
    results: dict[int, Result] = field(default_factory=dict)  # by index of the run
    asked_to_stop: bool = False


def run_jobs(
    work: Sequence[JobGroup],
    processes: int,
    on_progress: Callable[[Job, float], None],
    on_note: Callable[[str], None] = lambda note: None,
) -> Outcome:
    """Run all jobs, in at most `processes` processes at a time.

    After Ctrl-C or SIGTERM every run writes a checkpoint before it ends. A run that fails, or whose
    process is killed, does not stop the others. If this process is killed, the runs end by themselves.

    Args:
        work: Work of each process.
        processes: Maximal number of processes at a time.
        on_progress: Called with a job and its progress.
        on_note: Called with a message of a group to the user.
    """
    outcome = Outcome()
    waiting = list(work)
    running: list[_Running] = []
    with signals_noted(outcome):  # first of all: an import may swallow the exception of a Ctrl-C
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_preloaded(work))
        try:
            while running or (waiting and outcome.interrupted_by is None):
                while waiting and len(running) < processes and outcome.interrupted_by is None:
                    running += _start(context, waiting.pop(0), outcome)
                if outcome.interrupted_by is not None:
                    _ask_to_stop(running)
                _listen(running, on_progress, on_note)
                for each in [each for each in running if not each.process.is_alive()]:
                    _drain(each, on_progress, on_note)
                    _settle(each, outcome)
                    running.remove(each)
        finally:
            _ask_to_stop(running)  # none is left, unless an exception is being raised
            for each in running:
                each.process.join()
    outcome.stopped.extend(job.path for each in waiting for job in each.jobs)
    return outcome


def _preloaded(work: Sequence[JobGroup]) -> list[str]:
    # A server that has imported everything forks the runs: a run starts in milliseconds, without the
    # threads and locks of this process, and with the code as of now, even if the checkout changes while
    # other runs have their turn.
    # Every optimizer imports torch._dynamo, which takes longer than torch itself.
    modules = ["__main__", "plasticity.scripts.run.command", "torch._dynamo", *TENSORBOARD]
    # Every run imports the main module, which the server cannot import by "__main__" in all versions of
    # Python, and with it whatever the command consists of.
    modules += sorted(name for name in sys.modules if name.partition(".")[0] == "plasticity")
    for group in work:
        config = group.jobs[0].config
        kind = experiment_class(config)
        modules += [kind.__module__, *kind.modules(config), *config.imports]
    return modules


def _start(context: Any, work: JobGroup, outcome: Outcome) -> list[_Running]:
    error: Exception
    name = str(work.jobs[0].path)
    for patience in (PROGRESS_INTERVAL_SECONDS, 0.0):  # again, in case the server was just killed
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=do_work, args=(work, theirs), name=name, daemon=True)
        try:
            _start_server()
            process.start()
        except (OSError, EOFError) as caught:
            ours.close()
            error = caught
            time.sleep(patience)
        else:
            return [_Running(work.jobs, process, ours)]
        finally:
            theirs.close()
    for job in work.jobs:
        outcome.failed[job.path] = f"its process could not be started ({error!r})"
    return []


def _start_server() -> None:
    """Start the server if it is not running, with signals blocked.

    A signal to the whole process group (Ctrl-C, a batch system) would end it, and the results of the runs
    would be lost. The runs inherit the blocked signals, until each is ready to receive them.
    """
    resource_tracker.ensure_running()  # before blocking: starting it unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ask_to_stop(running: Sequence[_Running]) -> None:
    for each in running:
        if not each.asked_to_stop and each.process.is_alive():
            each.process.terminate()  # SIGTERM, on which a run writes a checkpoint
            each.asked_to_stop = True


def _listen(
    running: Sequence[_Running],
    on_progress: Callable[[Job, float], None],
    on_note: Callable[[str], None],
) -> None:
    ready = wait(
        [each.events for each in running if not each.events.closed]
        + [each.process.sentinel for each in running],
        timeout=PROGRESS_INTERVAL_SECONDS,
    )
    for each in running:
        if each.events in ready:
            _drain(each, on_progress, on_note)


def _drain(
    each: _Running, on_progress: Callable[[Job, float], None], on_note: Callable[[str], None]
) -> None:
    while not each.events.closed:
        try:
            if not each.events.poll():
                return
            kind, value = each.events.recv()
        except (EOFError, OSError):
            each.events.close()
            return
        if kind == "progress":
            for index, progress in value.items():
                on_progress(each.jobs[index], progress)
        elif kind == "note":
            on_note(value)
        else:
            each.results.update(value)


def _settle(each: _Running, outcome: Outcome) -> None:
    each.process.join()
    each.events.close()
    for index, job in enumerate(each.jobs):
        kind, value = each.results.get(index) or _unreported(each.process.exitcode)
        if kind in ("finished", "diverged"):
            outcome.finished.append(job.path)
        if kind == "diverged":
            outcome.diverged.append(job.path)
        elif kind == "stopped":
            outcome.stopped.append(job.path)
        elif kind == "in use":
            outcome.in_use.append(job.path)
        elif kind == "failed":
            outcome.failed[job.path] = value


def _unreported(code: int | None) -> Result:
    """Return the result of a process that reported none."""
    if code is not None and code < 0:
        return ("failed", f"its process was ended by {signal.Signals(-code).name}")
    return ("failed", f"its process ended with exit code {code} and no message")


class signals_noted:
    """Context in which SIGINT and SIGTERM are recorded instead of raised.

    Args:
        outcome: Results of all runs, which get the signal.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        def note(number: int, _frame: FrameType | None) -> None:
            self._outcome.interrupted_by = signal.Signals(number)

        if threading.current_thread() is threading.main_thread():
            for each in _STOP_SIGNALS:
                self._before[each] = signal.signal(each, note)

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)
