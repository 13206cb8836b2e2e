"""Unit of work on another machine: a run, or a stack of runs, as the local pool does it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasticity.scripts.launch.code import require_same_code
from plasticity.scripts.run.atomic_files import RunError, explained
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.leases import time_of_file_system
from plasticity.scripts.run.pool import Outcome, run_jobs
from plasticity.scripts.run.saved_run import is_finished, load_checkpoint
from plasticity.scripts.run.versions import made_by

CLOCK_TOLERANCE_SECONDS = 30.0
"""Difference between the clocks of a machine and of the shared folder from which the user is told."""


@dataclass
class Report:
    """Answer of a unit."""

    outcome: Outcome
    """Results of its runs."""

    notes: list[str] = field(default_factory=list)
    """Messages to the user."""


@dataclass(frozen=True)
class Unit:
    """Runs to be done by one job, and what they are to be done with; called on the job's machine."""

    group: JobGroup
    """Runs of the job."""

    made_by: Mapping[str, Any]
    """Versions and commit of the launcher, which those of the job's machine have to equal."""

    folder: Path = field(default_factory=Path.cwd)
    """Folder in which the launcher was started, from which relative paths and modules of the user's count."""

    def __call__(self) -> Report:
        """Do the runs in one process, as the local pool does."""
        report = Report(Outcome())
        try:
            require_same_code(self.made_by, made_by())
            self._enter_folder()
            for job in self.group.jobs:
                with explained(job.path):
                    job.path.mkdir(parents=True, exist_ok=True)
            report.notes += _clock_notes(self.group.jobs[0])
            report.outcome = run_jobs(
                [self.group], 1, lambda _job, _value: None, report.notes.append
            )
        except RunError as error:
            report.outcome.failed = {job.path: str(error) for job in self.group.jobs}
        return report

    def _enter_folder(self) -> None:
        """Continue in the launcher's folder: a Ray that runs already has workers in that of its own start."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            if all(job.path.is_absolute() for job in self.group.jobs):
                return
            raise RunError(
                f"{socket.gethostname()} cannot enter {self.folder} ({error.strerror}), from which --out"
                " counts: give an --out that begins with /, in a folder that all machines see."
            ) from error


def _clock_notes(job: Job) -> list[str]:
    with explained(job.path):
        difference = time.time() - time_of_file_system(job.path)
    if abs(difference) <= CLOCK_TOLERANCE_SECONDS:
        return []
    return [
        f"The clock of {socket.gethostname()} differs from that of {job.path} by {difference:+.0f} s: locks"
        " go by the folder's and are safe, but times that you see are not comparable. Have NTP set it."
    ]


def settle(
    work: JobGroup,
    report: Report | str,
    outcome: Outcome,
    on_progress: Callable[[Job, float], None],
) -> None:
    """Add the results of a unit's runs to those of all.

    What a folder holds counts more than a report that did not come: a job that was thought lost, and
    replaced, may have ended its runs while its replacement found them in use.

    Args:
        work: Runs of the unit.
        report: Its report, or the reason why there is none.
        outcome: Results of all runs, added to.
        on_progress: Called with each finished run and its length.
    """
    found = report.outcome if isinstance(report, Report) else Outcome()
    for job in work.jobs:
        if job.path in found.stopped:
            outcome.stopped.append(job.path)
        elif job.path in found.finished or is_finished(job.path, job.config):
            outcome.finished.append(job.path)
            checkpoint = load_checkpoint(job.path)
            if job.path in found.diverged or (checkpoint is not None and checkpoint.diverged):
                outcome.diverged.append(job.path)
            on_progress(job, float(job.config.length))
        elif job.path in found.in_use:
            outcome.in_use.append(job.path)
        else:
            reason = report if isinstance(report, str) else "its job reported nothing about it"
            outcome.failed[job.path] = found.failed.get(job.path, reason)
