"""Runs side by side, in processes of one thread each: a run in each, or a group that trains as one."""

from __future__ import annotations

import multiprocessing
import signal
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

from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.events import MODULES as TENSORBOARD
from plasticity.scripts.run.jobs import Job, JobGroup, Work
from plasticity.scripts.run.process import PROGRESS_INTERVAL_SECONDS, do_work

__all__ = ["Job", "Outcome", "run_jobs"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Outcome:
    """What became of the jobs."""

    finished: list[Path] = field(default_factory=list)
    """Runs that have all their rows, or ended because they diverged."""

    diverged: list[Path] = field(default_factory=list)
    """Those of the finished runs whose loss became NaN or infinite."""

    stopped: list[Path] = field(default_factory=list)
    """Runs that wrote a checkpoint because they were asked to stop, or were never begun."""

    failed: dict[Path, str] = field(default_factory=dict)
    """Runs that ended with an error, and its message."""

    interrupted_by: signal.Signals | None = None
    """The signal that stopped them."""


@dataclass
class _Running:
    jobs: tuple[Job, ...]
    process: BaseProcess
    events: Connection
    words: dict[int, tuple[str, str]] = field(default_factory=dict)  # the last ones of single runs
    message: tuple[str, str] | None = None  # the last one, of all others
    told_to_stop: bool = False


def run_jobs(
    work: Sequence[Work],
    processes: int,
    on_progress: Callable[[Job, float], None],
    on_note: Callable[[str], None] = lambda note: None,
) -> Outcome:
    """Run all jobs, in at most `processes` processes at a time.

    Ctrl-C and SIGTERM let every run write a checkpoint first. A run that fails, or whose process
    is killed, does not stop the others. If this process is killed, the runs end by themselves.

    Args:
        work: Each for a process of its own.
        processes: How many at once.
        on_progress: Called with a job and how many of its rows are done.
        on_note: Called with what a group has to tell its user before it begins.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_preloaded(work))
    outcome = Outcome()
    waiting = list(work)
    running: list[_Running] = []
    with _signals_noted(outcome):
        try:
            while running or (waiting and outcome.interrupted_by is None):
                while waiting and len(running) < processes and outcome.interrupted_by is None:
                    running += _start(context, waiting.pop(0), outcome)
                if outcome.interrupted_by is not None:
                    _tell_to_stop(running)
                _listen(running, on_progress, on_note)
                for each in [each for each in running if not each.process.is_alive()]:
                    _drain(each, on_progress, on_note)
                    _settle(each, outcome)
                    running.remove(each)
        finally:
            _tell_to_stop(running)  # nothing is left, unless an exception is on its way
            for each in running:
                each.process.join()
    outcome.stopped.extend(job.path for each in waiting for job in each.jobs)
    return outcome


def _preloaded(work: Sequence[Work]) -> list[str]:
    # A server that has imported everything forks the runs: a run starts in milliseconds, without
    # the threads and locks of this process, and with the code of its beginning, whatever becomes
    # of the checkout while other runs have their turn.
    # Every optimizer imports torch._dynamo, which takes longer than torch itself.
    modules = ["__main__", "plasticity.scripts.run.command", "torch._dynamo", *TENSORBOARD]
    configs = [job.config for each in work for job in each.jobs]
    if any(
        isinstance(each, SupervisedRunConfig) and each.stream.dataset == "digits"
        for each in configs
    ):
        modules.append("sklearn.datasets")
    for group in (each for each in work if isinstance(each, JobGroup)):
        is_image = isinstance(group.jobs[0].config, SupervisedRunConfig)
        modules.append(f"plasticity.scripts.run.stacked_{'images' if is_image else 'ants'}")
    return modules


def _start(context: Any, work: Work, outcome: Outcome) -> list[_Running]:
    error: Exception
    name = str(work.jobs[0].path)
    for patience in (PROGRESS_INTERVAL_SECONDS, 0.0):  # for a server that was killed just now
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
    """Start the server if it is not there, deaf to signals.

    A signal to the whole group (Ctrl-C, a batch system) would end it, and with it all knowledge of
    what becomes of the runs. The runs are deaf as well, until each is ready to be told.
    """
    resource_tracker.ensure_running()  # before: having started, it makes signals audible again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tell_to_stop(running: Sequence[_Running]) -> None:
    for each in running:
        if not each.told_to_stop and each.process.is_alive():
            each.process.terminate()  # SIGTERM, which a run answers with a checkpoint
            each.told_to_stop = True


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
            for place, made in value.items():
                on_progress(each.jobs[place], made)
        elif kind == "note":
            on_note(value)
        elif kind == "runs":
            each.words.update(value)
        else:
            each.message = (kind, value)


def _settle(each: _Running, outcome: Outcome) -> None:
    each.process.join()
    each.events.close()
    for place, job in enumerate(each.jobs):
        kind, value = each.words.get(place) or each.message or _silence(each.process.exitcode)
        if kind in ("finished", "diverged"):
            outcome.finished.append(job.path)
        if kind == "diverged":
            outcome.diverged.append(job.path)
        elif kind == "stopped":
            outcome.stopped.append(job.path)
        elif kind == "failed":
            outcome.failed[job.path] = str(value)


def _silence(code: int | None) -> tuple[str, str]:
    """The last word for a process that gave none."""
    if code is not None and code < 0:
        return ("failed", f"its process was ended by {signal.Signals(-code).name}")
    return ("failed", f"its process ended with exit code {code} and no word")


class _signals_noted:
    """Note SIGINT and SIGTERM instead of raising in the middle of something."""

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
