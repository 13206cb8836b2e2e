"""Runs side by side: one process of one thread each, as many as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from plasticity.scripts.configuration import ImageRunConfig, RunConfig
from plasticity.scripts.events import MODULES as TENSORBOARD
from plasticity.scripts.experiments import make_experiment
from plasticity.scripts.runs import RunError, RunFolder, execute

PROGRESS_INTERVAL_SECONDS = 0.5
"""How often a run tells how far it is."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """One run to be done."""

    path: Path
    """Its folder."""

    config: RunConfig
    """Its configuration."""


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
    job: Job
    process: BaseProcess
    events: Connection
    message: tuple[str, Any] | None = None
    told_to_stop: bool = False


def run_jobs(
    jobs: Sequence[Job], processes: int, on_progress: Callable[[Job, float], None]
) -> Outcome:
    """Run all jobs, at most `processes` at a time.

    Ctrl-C and SIGTERM let every run write a checkpoint first. A run that fails, or whose process
    is killed, does not stop the others. If this process is killed, the runs end by themselves.

    Args:
        jobs: Each in a folder of its own.
        processes: How many at once.
        on_progress: Called with a job and how many of its rows are done.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_preloaded(jobs))
    outcome = Outcome()
    waiting = list(jobs)
    running: list[_Running] = []
    with _signals_noted(outcome):
        try:
            while running or (waiting and outcome.interrupted_by is None):
                while waiting and len(running) < processes and outcome.interrupted_by is None:
                    running += _start(context, waiting.pop(0), outcome)
                if outcome.interrupted_by is not None:
                    _tell_to_stop(running)
                _listen(running, on_progress)
                for each in [each for each in running if not each.process.is_alive()]:
                    _drain(each, on_progress)
                    _settle(each, outcome)
                    running.remove(each)
        finally:
            _tell_to_stop(running)  # nothing is left, unless an exception is on its way
            for each in running:
                each.process.join()
    outcome.stopped.extend(job.path for job in waiting)
    return outcome


def _preloaded(jobs: Sequence[Job]) -> list[str]:
    # A server that has imported everything forks the runs: a run starts in milliseconds, without
    # the threads and locks of this process, and with the code of its beginning, whatever becomes
    # of the checkout while other runs have their turn.
    # Every optimizer imports torch._dynamo, which takes longer than torch itself.
    modules = ["__main__", "plasticity.scripts.run", "torch._dynamo", *TENSORBOARD]
    configs = [job.config for job in jobs]
    if any(isinstance(each, ImageRunConfig) and each.dataset == "digits" for each in configs):
        modules.append("sklearn.datasets")
    return modules


def _start(context: Any, job: Job, outcome: Outcome) -> list[_Running]:
    error: Exception
    for patience in (PROGRESS_INTERVAL_SECONDS, 0.0):  # for a server that was killed just now
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, theirs), name=str(job.path), daemon=True)
        try:
            _start_server()
            process.start()
        except (OSError, EOFError) as caught:
            ours.close()
            error = caught
            time.sleep(patience)
        else:
            return [_Running(job, process, ours)]
        finally:
            theirs.close()
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


def _listen(running: Sequence[_Running], on_progress: Callable[[Job, float], None]) -> None:
    ready = wait(
        [each.events for each in running if not each.events.closed]
        + [each.process.sentinel for each in running],
        timeout=PROGRESS_INTERVAL_SECONDS,
    )
    for each in running:
        if each.events in ready:
            _drain(each, on_progress)


def _drain(each: _Running, on_progress: Callable[[Job, float], None]) -> None:
    while not each.events.closed:
        try:
            if not each.events.poll():
                return
            kind, value = each.events.recv()
        except (EOFError, OSError):
            each.events.close()
            return
        if kind == "progress":
            on_progress(each.job, value)
        else:
            each.message = (kind, value)


def _settle(each: _Running, outcome: Outcome) -> None:
    each.process.join()
    each.events.close()
    path = each.job.path
    code = each.process.exitcode
    kind, value = each.message or ("killed", None)
    if kind == "finished":
        outcome.finished.append(path)
        if value == "diverged":
            outcome.diverged.append(path)
    elif kind == "stopped":
        outcome.stopped.append(path)
    elif kind == "failed":
        outcome.failed[path] = str(value)
    elif code is not None and code < 0:
        outcome.failed[path] = f"its process was ended by {signal.Signals(-code).name}"
    else:
        outcome.failed[path] = f"its process ended with exit code {code} and no word"


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


# ---- inside a run's own process ------------------------------------------------------------------------


def _work(job: Job, events: Connection) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C stays unheard: the parent hears it too, and passes it on as SIGTERM.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    message: tuple[str, Any]
    try:
        message = _execute(job, events, stop)
    except (RunError, ValueError, OSError) as error:
        message = ("failed", str(error))
    except Exception:
        message = ("failed", traceback.format_exc())
    _tell(events, message)


def _end_with_parent() -> None:
    # The parent was killed: end at once, so that the same command finds no lock held. What the
    # checkpoint does not hold is made again, the same. If the server was killed, the parent no
    # longer knows of this run, and takes it for dead.
    parent, server = multiprocessing.parent_process(), os.getppid()
    if parent is not None:
        while not wait([parent.sentinel], timeout=1.0) and os.getppid() == server:
            pass
        os._exit(1)


def _tell(events: Connection, message: tuple[str, Any]) -> None:
    with suppress(OSError):  # the parent was killed: this process is about to end as well
        events.send(message)


def _execute(job: Job, events: Connection, stop: threading.Event) -> tuple[str, Any]:
    with RunFolder(job.path, job.config.to_json()) as folder:
        experiment = make_experiment(job.config)
        told = -PROGRESS_INTERVAL_SECONDS

        def should_stop() -> bool:
            nonlocal told
            now = time.monotonic()
            if now - told > PROGRESS_INTERVAL_SECONDS:
                told = now
                _tell(events, ("progress", experiment.progress))
            return stop.is_set()

        try:
            finished = execute(folder, experiment, should_stop)
        finally:
            experiment.close()
        if not finished:
            return ("stopped", None)
        _tell(events, ("progress", float(job.config.length)))
        return ("finished", "diverged" if experiment.diverged else None)
