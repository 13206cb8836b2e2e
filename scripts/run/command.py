"""Commands `plasticity run` and `plasticity sweep`: from options to runs, side by side, with progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plasticity.checks import require_integer
from plasticity.scripts.config.grid import Axis, points
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.tuned import require_tuned, with_tuned
from plasticity.scripts.launch.code import note_on_code, require_one_commit
from plasticity.scripts.launch.launcher import launcher_of
from plasticity.scripts.run.experiment import experiment_class
from plasticity.scripts.run.folder import require_free
from plasticity.scripts.run.jobs import Job
from plasticity.scripts.run.pool import Outcome, run_jobs
from plasticity.scripts.run.progress import Messages, live_progress
from plasticity.scripts.run.saved_run import (
    is_finished,
    load_checkpoint,
    progress_made,
    require_same_config,
    saved_config,
)
from plasticity.scripts.run.stacks import groups_of, left_of, planned, require_use
from plasticity.scripts.run.versions import made_by
from plasticity.scripts.trackers.base import require_trackers
from plasticity.tasks.vector.environments import available_cores

MAX_NAMED = 3
"""Number of runs that a message about many of them names."""


def run(options: RunOptions, command: str = "the same command") -> int:
    """Train the runs that the options request.

    Args:
        options: Options of the command line.
        command: Command line that continues the runs, for the message about stopped runs.

    Returns:
        The exit code: 0 if all runs are finished, 1 if one is not, 128 + signal if stopped.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be satisfied.
    """
    require_tuned(options)
    return run_all(jobs_of(options, options.methods, options.out), options, command)


def sweep(options: RunOptions, axes: Sequence[Axis], command: str = "the same command") -> int:
    """Train the runs of a grid: as `run`, for every combination of its settings.

    Each combination has its own folder, named by the settings that the method uses.
    """
    jobs: list[Job] = []
    for method in options.methods:
        for name, chosen in points(axes, method, options):
            jobs += jobs_of(chosen, (method,), options.out / name)
    return run_all(jobs, options, command)


def jobs_of(options: RunOptions, methods: Sequence[str], out: Path) -> list[Job]:
    """Return the runs of some methods with all seeds, each with its folder below `out`."""
    by_method = {method: with_tuned(options, method) for method in methods}
    return [
        Job(
            out / options.benchmark / method / f"seed_{seed}",
            by_method[method].run_config(method, seed),
        )
        for seed in options.seeds
        for method in methods
    ]


def run_all(jobs: Sequence[Job], options: RunOptions, command: str) -> int:
    """Train runs of one benchmark, those that are not finished; arguments and result as `run`.

    Args:
        jobs: The runs.
        options: Options of the command, for how they share the machine.
        command: Command line that continues the runs.
    """
    messages = Messages()
    launcher = launcher_of(options)
    processes = _processes(options, jobs)
    require_trackers(options.config.track)
    require_use(jobs, options.stack)
    jobs = _with_cores(jobs, options.cores_of_job or _shared_cores(jobs, processes))
    unfinished = _unfinished(jobs)
    if len(unfinished) < len(jobs):
        messages.print(f"{len(jobs) - len(unfinished)} of {len(jobs)} runs are already finished.")
    if not unfinished:
        return 0
    totals = {job.path: job.config.length for job in unfinished}
    done = {job.path: progress_made(job.path, job.config) for job in unfinished}
    unit = unfinished[0].config.axes[-1]
    work = left_of(planned(jobs, options.stack), unfinished)
    if launcher is not None:
        launcher.require_ready()
        require_one_commit(unfinished, made_by()["git_commit"])
    elif (note := note_on_code(unfinished, made_by())) is not None:
        messages.print(note)
    with live_progress(messages, totals, done, unit) as shown:

        def on_progress(job: Job, value: float) -> None:
            shown(job.path, value)

        if launcher is None:
            outcome = run_jobs(work, processes, on_progress, messages.print)
        else:
            outcome = launcher.launch(work, on_progress, messages.print)
        _look_again(unfinished, outcome)
    return _conclude(messages, outcome, command)


def _processes(options: RunOptions, jobs: Sequence[Job]) -> int:
    if not jobs:
        raise ValueError("Give at least one method and one seed: --methods none syre --seeds 0 1.")
    if options.jobs is not None:
        return require_integer("--jobs", options.jobs, minimum=1)
    if jobs[0].config.device != "cpu":
        return 1
    return max(1, available_cores() // jobs[0].config.cores)


def _shared_cores(jobs: Sequence[Job], processes: int) -> int:
    """Return the cores that each run has if they share this machine's."""
    return max(1, available_cores() // min(processes, len(jobs)))


def _with_cores(jobs: Sequence[Job], cores: int) -> list[Job]:
    """Give the runs that can use several cores this many, unless the user gave a number."""
    return [replace(job, config=job.config.with_cores(cores)) for job in jobs]


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that are not finished, after all checks that are possible before anything runs."""
    for path, count in Counter(job.path for job in jobs).items():
        if count > 1:
            raise ValueError(
                f"{path} is named twice, by a repeated method, seed or setting: once is enough."
            )
    for job in jobs:
        require_same_config(job.path, saved_config(job.path), job.config)
    configs = [group[0].config for group in groups_of(jobs)]
    experiment_class(configs[0]).require_runnable(configs)  # all are of one benchmark
    unfinished = [job for job in jobs if not is_finished(job.path, job.config)]
    require_free([job.path for job in unfinished])
    return unfinished


def _look_again(jobs: Sequence[Job], outcome: Outcome) -> None:
    """Count those runs as finished that another process has finished since it was found at work on them."""
    for job in jobs:
        if job.path in outcome.in_use and is_finished(job.path, job.config):
            outcome.in_use.remove(job.path)
            outcome.finished.append(job.path)
            checkpoint = load_checkpoint(job.path)
            if checkpoint is not None and checkpoint.diverged:
                outcome.diverged.append(job.path)


def _listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    first = ", ".join(names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return f"{first} and {more} more" if more > 0 else first


def _conclude(messages: Messages, outcome: Outcome, command: str) -> int:
    if outcome.finished:
        messages.print(f"{len(outcome.finished)} runs finished.")
    for path in outcome.diverged:
        messages.print(f"diverged: {path} (its loss became NaN or infinite; it ends there)")
    # A group fails as one: its runs share a message, or a traceback.
    by_message: dict[str, list[str]] = {}
    for path, message in outcome.failed.items():
        by_message.setdefault(message, []).append(str(path))
    for message, paths in by_message.items():
        messages.print(f"failed: {_listed(paths)}: {message}", style="red")
    if outcome.in_use:
        messages.print(
            f"in use by another process, which goes on with them: {_listed([*map(str, outcome.in_use)])}"
        )
    if outcome.stopped:
        messages.print(
            f"{len(outcome.stopped)} runs stopped, their checkpoints are written. Continue:"
        )
        messages.print(f"  {command}")
    elif outcome.failed:
        messages.print("To continue the failed runs, once the cause is fixed:")
        messages.print(f"  {command}")
    elif outcome.in_use:
        messages.print(
            "To see that they were finished, and to continue what was not, once it has ended:"
        )
        messages.print(f"  {command}")
    if outcome.interrupted_by is not None:
        return 128 + int(outcome.interrupted_by)
    return 1 if outcome.failed or outcome.stopped or outcome.in_use else 0
