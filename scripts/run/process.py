"""Inside the process of a run, or of a group of runs that train at once."""

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
from plasticity.scripts.run.memory import Memory, measured_memory, told
from plasticity.scripts.run.stacked import StackedExperiment, StackedRuns
from plasticity.scripts.run.stacks import even_parts, has_ordinary_experiment

PROGRESS_INTERVAL_SECONDS = 0.5
"""How often a run tells how far it is."""


def do_work(work: Work, events: Connection) -> None:
    """Do what this process is for, and say what became of it.

    Args:
        work: A run, or a group of them.
        events: Where to: progress by place in the group, notes, the last words of single runs, and last
            of all the word for all others.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C stays unheard: the parent hears it too, and passes it on as SIGTERM.
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


class _Teller:
    """Tells how far runs are, though not more often than anyone looks."""

    def __init__(self, events: Connection) -> None:
        self._events = events
        self._told = -PROGRESS_INTERVAL_SECONDS

    def __call__(self, progress: Callable[[], dict[int, float]]) -> None:
        now = time.monotonic()
        if now - self._told > PROGRESS_INTERVAL_SECONDS:
            self._told = now
            _tell(self._events, ("progress", progress()))


def _execute(work: Work, events: Connection, stop: threading.Event) -> tuple[str, str]:
    if isinstance(work, JobGroup):
        return _execute_group(work, events, stop)
    return _execute_job(work, 0, events, stop)


def _execute_job(
    job: Job, place: int, events: Connection, stop: threading.Event
) -> tuple[str, str]:
    """Do one run, which is the group's at this place; give its last word."""
    teller = _Teller(events)
    with RunFolder(job.path, job.config.to_json()) as folder:
        experiment = make_experiment(job.config)

        def should_stop() -> bool:
            teller(lambda: {place: experiment.progress})
            return stop.is_set()

        try:
            finished = execute(folder, experiment, should_stop)
        finally:
            experiment.close()
        if not finished:
            return ("stopped", "")
        _tell(events, ("progress", {place: float(job.config.length)}))
        return ("diverged" if experiment.diverged else "finished", "")


def _execute_group(group: JobGroup, events: Connection, stop: threading.Event) -> tuple[str, str]:
    """Do a group's runs, in parts that fit; give the last word of those that have none of their own."""
    places = list(range(len(group.jobs)))
    parts = [places]
    has_company = len(places) > 1 or group.had_more
    if group.is_measured and has_company:
        memory = _memory_of([job.config for job in group.jobs])
        parts = even_parts(places, memory.most)
        has_company = memory.most > 1
        if len(parts) > 1:
            _tell(events, ("note", told(memory, [len(part) for part in parts])))
    for part in parts:
        if stop.is_set():
            break
        words = dict.fromkeys(part, ("stopped", ""))
        try:
            if not has_company and has_ordinary_experiment(group.jobs[part[0]].config):
                words[part[0]] = _execute_job(group.jobs[part[0]], part[0], events, stop)
            else:
                _execute_part(group.jobs, part, words, events, stop, has_company=has_company)
        except (RunError, ValueError, OSError) as error:
            _fail(words, str(error))
        except torch.cuda.OutOfMemoryError:
            _fail(
                words,
                f"{len(part)} runs at once are too many for the memory of {group.jobs[0].config.device}:"
                " give a smaller --stack.",
            )
        _tell(events, ("runs", words))
    return ("stopped", "")


def _memory_of(configs: Sequence[RunConfig]) -> Memory:
    """Measure what runs like these need on their CUDA device."""
    kind = stacked_experiment(configs[0])

    def begin(runs: int) -> StackedExperiment:
        # From all over the group: a method with anchors needs more than one without.
        experiment = kind([configs[place * len(configs) // runs] for place in range(runs)])
        experiment.rehearse()
        return experiment

    with torch.cuda.device(configs[0].device):
        return measured_memory(max(2, len(configs)), begin)  # what is left of a group may be one


def _fail(words: dict[int, tuple[str, str]], message: str) -> None:
    """Let it be the last word of all runs that are not finished."""
    for place, (kind, _) in words.items():
        if kind == "stopped":
            words[place] = ("failed", message)


def _execute_part(
    jobs: Sequence[Job],
    places: Sequence[int],
    words: dict[int, tuple[str, str]],
    events: Connection,
    stop: threading.Event,
    *,
    has_company: bool,
) -> None:
    """Train runs at once, and note the last words of those that end."""
    teller = _Teller(events)
    mine = [jobs[place] for place in places]

    def on_end(index: int, diverged: bool) -> None:
        words[places[index]] = ("diverged" if diverged else "finished", "")
        _tell(events, ("progress", {places[index]: float(mine[index].config.length)}))
        _tell(events, ("runs", {places[index]: words[places[index]]}))

    with ExitStack() as open_folders:
        folders = [
            open_folders.enter_context(RunFolder(job.path, job.config.to_json())) for job in mine
        ]
        StackedRuns(
            folders,
            [job.config for job in mine],
            stacked_experiment(mine[0].config),
            has_company=has_company,
            on_progress=lambda made: teller(
                lambda: {places[index]: value for index, value in made().items()}
            ),
            on_end=on_end,
        ).execute(stop.is_set)
