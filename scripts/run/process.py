"""Process of a group of runs: trains them, in parts that fit into memory, and reports their results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from plasticity.scripts.config.imports import import_modules
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.run.atomic_files import reason
from plasticity.scripts.run.experiment import Experiment, experiment_class
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.jobs import JobGroup
from plasticity.scripts.run.locks import InUseError
from plasticity.scripts.run.memory import Memory, describe_groups, measured_memory
from plasticity.scripts.run.runner import Runner
from plasticity.scripts.run.stacks import even_parts

PROGRESS_INTERVAL_SECONDS = 0.5
"""Seconds between two progress reports of a run."""

Result = tuple[str, str]
"""Result of a run: finished, diverged, stopped, in use or failed, and the message of a failure."""


def do_work(group: JobGroup, events: Connection) -> None:
    """Do the work of this process, and report its results.

    Args:
        group: Runs to be done.
        events: Connection for the reports: progress and results of runs by index in the group, and notes.
    """
    stop = threading.Event()

    def note(*_: object) -> None:
        # The second of two signals, the group's and the parent's, would wait for the first one's lock.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.set()

    signal.signal(signal.SIGTERM, note)
    # SIGINT stays blocked: the parent receives Ctrl-C too, and passes it on as SIGTERM.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    import_modules(group.jobs[0].config.imports)  # equal in a group
    execute(group, events, stop)


def _end_with_parent() -> None:
    # The parent was killed: end at once, so that the same command finds no lock held. Work that the
    # checkpoint does not cover is repeated, with the same result. If the server was killed, the parent
    # can no longer watch this run, and takes it for dead.
    parent, server = multiprocessing.parent_process(), os.getppid()
    if parent is not None:
        while not wait([parent.sentinel], timeout=1.0) and os.getppid() == server:
            pass
        os._exit(1)


class _Reports:
    """Reports about the runs of a group, by index: progress at most every `PROGRESS_INTERVAL_SECONDS`."""

    def __init__(self, events: Connection, group: JobGroup) -> None:
        self._events = events
        self._jobs = group.jobs
        self._without_result = set(range(len(group.jobs)))
        self._latest = -PROGRESS_INTERVAL_SECONDS

    def progress(self, progress: Callable[[], Mapping[int, float]]) -> None:
        """Report the progress of runs, if it is time for it."""
        now = time.monotonic()
        if now - self._latest > PROGRESS_INTERVAL_SECONDS:
            self._latest = now
            self._send("progress", progress())

    def note(self, text: str) -> None:
        """Report a message to the user."""
        self._send("note", text)

    def end(self, run: int, *, diverged: bool) -> None:
        """Report that a run has its last row."""
        self._send("progress", {run: float(self._jobs[run].config.length)})
        self._results([run], ("diverged" if diverged else "finished", ""))

    def in_use(self, run: int) -> None:
        """Report that another process works on a run."""
        self._results([run], ("in use", ""))

    def stopped(self) -> None:
        """Report that all runs without a result were stopped."""
        self._results(range(len(self._jobs)), ("stopped", ""))

    @contextmanager
    def failures(self, runs: Sequence[int]) -> Iterator[None]:
        """Report an error inside a `with` as the result of those of its runs that have none."""
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            self._results(runs, ("failed", _too_large(len(runs), self._jobs[0].config.device)))
        except Exception as error:
            self._results(runs, ("failed", reason(error)))

    def _results(self, runs: Sequence[int], result: Result) -> None:
        new = dict.fromkeys(self._without_result.intersection(runs), result)
        self._without_result -= new.keys()
        if new:
            self._send("results", new)

    def _send(self, kind: str, value: Any) -> None:
        with suppress(OSError):  # the parent was killed: this process is about to end as well
            self._events.send((kind, value))


def _too_large(runs: int, device: str) -> str:
    if runs == 1:
        return f"The run is too large for the memory of {device}: give a smaller network or batch."
    return f"{runs} stacked runs are too many for the memory of {device}: give a smaller --stack."


def execute(group: JobGroup, events: Connection, stop: threading.Event) -> None:
    """Train the runs of a group, in parts that fit; a part that fails does not stop the next one.

    Args:
        group: Runs to be done.
        events: Connection for the reports, as in `do_work`.
        stop: Once it is set, the runs write their checkpoints and stop.
    """
    reports = _Reports(events, group)
    with reports.failures(range(len(group.jobs))):
        parts, in_group = _parts(group, reports)
        for part in parts:
            if stop.is_set():
                break
            with reports.failures(part):
                _train(group, part, reports, stop, in_group=in_group)
    reports.stopped()


def _parts(group: JobGroup, reports: _Reports) -> tuple[list[list[int]], bool]:
    """Return the indices of the runs that are trained at once, and whether a single one is stacked too."""
    indices = list(range(len(group.jobs)))
    in_group = len(indices) > 1 or group.had_more
    if not (group.is_measured and in_group):
        return [indices], in_group
    memory = _memory_of([job.config for job in group.jobs])
    parts = even_parts(indices, memory.most)
    if len(parts) > 1:
        reports.note(describe_groups(memory, [len(part) for part in parts]))
    return parts, memory.most > 1


def _memory_of(configs: Sequence[RunConfig]) -> Memory:
    """Measure the memory that stacked runs like these need on their CUDA device."""
    kind = experiment_class(configs[0])

    def begin(runs: int) -> Experiment:
        # Evenly spaced in the group: a method with anchors needs more memory than one without.
        chosen = [configs[index * len(configs) // runs] for index in range(runs)]
        experiment = kind(chosen, stacked=True)
        experiment.rehearse()
        return experiment

    with torch.cuda.device(configs[0].device):
        return measured_memory(max(2, len(configs)), begin)  # a single run of a group may be left


def _train(
    group: JobGroup,
    part: Sequence[int],
    reports: _Reports,
    stop: threading.Event,
    *,
    in_group: bool,
) -> None:
    """Train the runs with these indices together, and report the results of those that end.

    Those that another process works on are left to it.
    """
    with ExitStack() as opened:
        folders: dict[int, RunFolder] = {}
        for index in part:
            job = group.jobs[index]
            try:
                folders[index] = opened.enter_context(RunFolder(job.path, job.config))
            except InUseError:
                reports.in_use(index)
        if not folders:
            return
        trained = list(folders)
        Runner(
            list(folders.values()),
            in_group=in_group,
            on_progress=lambda progress: reports.progress(
                lambda: {trained[run]: value for run, value in progress().items()}
            ),
            on_end=lambda run, diverged: reports.end(trained[run], diverged=diverged),
        ).execute(stop.is_set)
