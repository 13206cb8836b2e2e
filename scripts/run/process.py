"""Process of a run, or of a group of stacked runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.run.experiments import make_experiment, stacked_experiment
from plasticity.scripts.run.folder import RunError, RunFolder, execute
from plasticity.scripts.run.jobs import Job, JobGroup, Work
from plasticity.scripts.run.memory import Memory, describe_groups, measured_memory
from plasticity.scripts.run.stacked import StackedExperiment, StackedRuns
from plasticity.scripts.run.stacks import even_parts, has_ordinary_experiment

PROGRESS_INTERVAL_SECONDS = 0.5
"""Seconds between two progress reports of a run."""


def do_work(work: Work, events: Connection) -> None:
    """Do the work of this process, and report its results.

    Args:
        work: A run, or a group of runs.
        events: Connection for the reports: progress by index in the group, notes, results of single runs,
            and finally the result of all others.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # SIGINT stays blocked: the parent receives Ctrl-C too, and passes it on as SIGTERM.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    message: tuple[str, str]
    try:
        message = _execute(work, events, stop)
    except (RunError, ValueError, OSError) as error:
        message = ("failed", str(error))
    except Exception:
        message = ("failed", traceback.format_exc())
    _send(events, message)


def _end_with_parent() -> None:
    # The parent was killed: end at once, so that the same command finds no lock held. Work that the
    # checkpoint does not cover is repeated, with the same result. If the server was killed, the parent
    # can no longer watch this run, and takes it for dead.
    parent, server = multiprocessing.parent_process(), os.getppid()
    if parent is not None:
        while not wait([parent.sentinel], timeout=1.0) and os.getppid() == server:
            pass
        os._exit(1)


def _send(events: Connection, message: tuple[str, Any]) -> None:
    with suppress(OSError):  # the parent was killed: this process is about to end as well
        events.send(message)


class _ProgressReports:
    """Reports of the progress of runs, at most one every `PROGRESS_INTERVAL_SECONDS`."""

    def __init__(self, events: Connection) -> None:
        self._events = events
        self._latest = -PROGRESS_INTERVAL_SECONDS

    def __call__(self, progress: Callable[[], dict[int, float]]) -> None:
        now = time.monotonic()
        if now - self._latest > PROGRESS_INTERVAL_SECONDS:
            self._latest = now
            _send(self._events, ("progress", progress()))


def _execute(work: Work, events: Connection, stop: threading.Event) -> tuple[str, str]:
    if isinstance(work, JobGroup):
        return _execute_group(work, events, stop)
    return _execute_job(work, 0, events, stop)


def _execute_job(
    job: Job, index: int, events: Connection, stop: threading.Event
) -> tuple[str, str]:
    """Do one run, which has this index in its group; return its result."""
    report = _ProgressReports(events)
    with RunFolder(job.path, job.config.to_json()) as folder:
        experiment = make_experiment(job.config)

        def should_stop() -> bool:
            report(lambda: {index: experiment.progress})
            return stop.is_set()

        try:
            finished = execute(folder, experiment, should_stop)
        finally:
            experiment.close()
        if not finished:
            return ("stopped", "")
        _send(events, ("progress", {index: float(job.config.length)}))
        return ("diverged" if experiment.diverged else "finished", "")


def _execute_group(group: JobGroup, events: Connection, stop: threading.Event) -> tuple[str, str]:
    """Do the runs of a group, in parts that fit; return the result of runs without one of their own."""
    indices = list(range(len(group.jobs)))
    parts = [indices]
    is_stacked = len(indices) > 1 or group.had_more
    if group.is_measured and is_stacked:
        memory = _memory_of([job.config for job in group.jobs])
        parts = even_parts(indices, memory.most)
        is_stacked = memory.most > 1
        if len(parts) > 1:
            _send(events, ("note", describe_groups(memory, [len(part) for part in parts])))
    for part in parts:
        if stop.is_set():
            break
        results = dict.fromkeys(part, ("stopped", ""))
        try:
            if not is_stacked and has_ordinary_experiment(group.jobs[part[0]].config):
                results[part[0]] = _execute_job(group.jobs[part[0]], part[0], events, stop)
            else:
                _execute_part(group.jobs, part, results, events, stop, is_stacked=is_stacked)
        except (RunError, ValueError, OSError) as error:
            _fail(results, str(error))
        except torch.cuda.OutOfMemoryError:
            _fail(
                results,
                f"{len(part)} stacked runs are too many for the memory of {group.jobs[0].config.device}:"
                " give a smaller --stack.",
            )
        _send(events, ("runs", results))
    return ("stopped", "")


def _memory_of(configs: Sequence[RunConfig]) -> Memory:
    """Measure the memory that runs like these need on their CUDA device."""
    kind = stacked_experiment(configs[0])

    def begin(runs: int) -> StackedExperiment:
        # Evenly spaced in the group: a method with anchors needs more memory than one without.
        experiment = kind([configs[index * len(configs) // runs] for index in range(runs)])
        experiment.rehearse()
        return experiment

    with torch.cuda.device(configs[0].device):
        return measured_memory(max(2, len(configs)), begin)  # a single run of a group may be left


def _fail(results: dict[int, tuple[str, str]], message: str) -> None:
    """Set the result of all runs that are not finished to a failure."""
    for index, (kind, _) in results.items():
        if kind == "stopped":
            results[index] = ("failed", message)


def _execute_part(
    jobs: Sequence[Job],
    indices: Sequence[int],
    results: dict[int, tuple[str, str]],
    events: Connection,
    stop: threading.Event,
    *,
    is_stacked: bool,
) -> None:
    """Train the runs with these indices stacked, and fill in the results of those that end."""
    report = _ProgressReports(events)
    part = [jobs[index] for index in indices]

    def on_end(member: int, diverged: bool) -> None:
        index = indices[member]
        results[index] = ("diverged" if diverged else "finished", "")
        _send(events, ("progress", {index: float(jobs[index].config.length)}))
        _send(events, ("runs", {index: results[index]}))

    with ExitStack() as open_folders:
        folders = [
            open_folders.enter_context(RunFolder(job.path, job.config.to_json())) for job in part
        ]
        StackedRuns(
            folders,
            [job.config for job in part],
            stacked_experiment(part[0].config),
            is_stacked=is_stacked,
            on_progress=lambda progress: report(
                lambda: {indices[member]: value for member, value in progress().items()}
            ),
            on_end=on_end,
        ).execute(stop.is_set)
