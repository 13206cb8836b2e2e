"""`plasticity run` and `plasticity sweep`: from options to runs, side by side, with progress."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plasticity.checks import require_integer, require_known
from plasticity.scripts.config.benchmarks import BENCHMARKS, METHODS
from plasticity.scripts.config.options import AntRunOptions, RunOptions, grid_of, require_meaning
from plasticity.scripts.config.run_config import AntRunConfig, RunConfig
from plasticity.scripts.run import folder as runs
from plasticity.scripts.run.experiments import require_runnable
from plasticity.scripts.run.jobs import Job
from plasticity.scripts.run.pool import Outcome, run_jobs
from plasticity.scripts.run.progress import Messages, live_progress
from plasticity.scripts.run.stacks import left_of, planned, require_use

NAMED_AT_ONCE = 3
"""Runs that a message names which is about many."""


def run(benchmark_name: str, options: RunOptions, command: str = "the same command") -> int:
    """Do what `plasticity run` does.

    Args:
        benchmark_name: One of `BENCHMARKS`.
        options: As the command line gives them.
        command: What to type to continue, for the message of a stopped run.

    Returns:
        The exit code: 0 if all runs are finished, 1 if one is not, 128 + signal if stopped.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be met.
    """
    require_known("benchmark", benchmark_name, BENCHMARKS)
    require_meaning(options)
    return _run_all(_jobs(benchmark_name, options, options.out), options, command)


def sweep(benchmark_name: str, options: RunOptions, command: str = "the same command") -> int:
    """Do what `plasticity sweep` does; as `run`, for every setting of the grid."""
    require_known("benchmark", benchmark_name, BENCHMARKS)
    grid = grid_of(options)
    jobs: list[Job] = []
    for name in options.methods:
        require_known("method", name, METHODS)
        method = METHODS[name]
        for strength in grid.strengths if method.uses_strength else (0.0,):
            for sigma in grid.sigmas if method.uses_sigma else (0.0,):
                setting = replace(options, methods=(name,), strength=strength, sigma=sigma)
                folder = options.out / f"strength_{strength:g}_sigma_{sigma:g}"
                jobs += _jobs(benchmark_name, setting, folder)
    return _run_all(jobs, options, command)


def _jobs(benchmark_name: str, options: RunOptions, out: Path) -> list[Job]:
    return [
        Job(
            out / benchmark_name / method / f"seed_{seed}",
            options.config(benchmark_name, method, seed),
        )
        for seed in options.seeds
        for method in options.methods
    ]


def _run_all(jobs: Sequence[Job], options: RunOptions, command: str) -> int:
    messages = Messages()
    processes = _processes(options, jobs)
    require_use(jobs, options.together)
    jobs = _with_cores(jobs, options, processes)
    unfinished = _unfinished(jobs)
    if len(unfinished) < len(jobs):
        messages.print(f"{len(jobs) - len(unfinished)} of {len(jobs)} runs are already finished.")
    if not unfinished:
        return 0
    totals = {job.path: job.config.length for job in unfinished}
    done = {path: float(runs.progress_made(path)) for path in totals}
    unit = unfinished[0].config.axis
    work = left_of(planned(jobs, options.together), unfinished)
    with live_progress(messages, totals, done, unit) as on_progress:
        outcome = run_jobs(
            work, processes, lambda job, value: on_progress(job.path, value), messages.print
        )
    return _conclude(messages, outcome, command)


def _processes(options: RunOptions, jobs: Sequence[Job]) -> int:
    if not jobs:
        raise ValueError("Give at least one method and one seed: --methods none syre --seeds 0 1.")
    if options.jobs is not None:
        return require_integer("--jobs", options.jobs, minimum=1)
    if jobs[0].config.device != "cpu":
        return 1
    cores = getattr(jobs[0].config, "cores", 1)
    return max(1, _available_cores() // cores)


def _available_cores() -> int:
    # The cores that this process may use, which a batch system may have limited.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_cores(jobs: Sequence[Job], options: RunOptions, processes: int) -> list[Job]:
    """Share the machine's cores among runs that can use several, if the user did not."""
    if not isinstance(options, AntRunOptions) or options.cores is not None:
        return list(jobs)
    shared = max(1, _available_cores() // min(processes, len(jobs)))
    return [replace(job, config=_on_cores(job.config, shared)) for job in jobs]


def _on_cores(config: RunConfig, cores: int) -> RunConfig:
    return replace(config, cores=cores) if isinstance(config, AntRunConfig) else config


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Refuse whatever can be refused before anything runs or is written; give what is to be run."""
    for path, count in Counter(job.path for job in jobs).items():
        if count > 1:
            raise ValueError(
                f"{path} is named twice, by a repeated method, seed or setting: once is enough."
            )
    for job in jobs:
        runs.require_same_config(job.path, runs.saved_config(job.path), job.config.to_json())
    require_runnable(jobs[0].config)
    unfinished = [job for job in jobs if not runs.is_finished(job.path, job.config.length)]
    runs.require_free([job.path for job in unfinished])
    return unfinished


def _listed(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    first = ", ".join(names[:NAMED_AT_ONCE])
    more = len(names) - NAMED_AT_ONCE
    return f"{first} and {more} more" if more > 0 else first


def _conclude(messages: Messages, outcome: Outcome, command: str) -> int:
    if outcome.finished:
        messages.print(f"{len(outcome.finished)} runs finished.")
    for path in outcome.diverged:
        messages.print(f"diverged: {path} (its loss became NaN or infinite; it ends there)")
    alike: dict[
        str, list[str]
    ] = {}  # a group fails as one: its runs share a message, and a traceback
    for path, message in outcome.failed.items():
        alike.setdefault(message, []).append(str(path))
    for message, paths in alike.items():
        messages.print(f"failed: {_listed(paths)}: {message}", style="red")
    if outcome.stopped:
        messages.print(
            f"{len(outcome.stopped)} runs stopped, their checkpoints are written. Continue:"
        )
        messages.print(f"  {command}")
    elif outcome.failed:
        messages.print("To continue what failed, once its cause is mended:")
        messages.print(f"  {command}")
    if outcome.interrupted_by is not None:
        return 128 + int(outcome.interrupted_by)
    return 1 if outcome.failed or outcome.stopped else 0
