"""Runs as jobs of a Slurm array, submitted by submitit."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plasticity.scripts.config.launchers import SlurmOptions
from plasticity.scripts.launch.unit import Report, Unit, settle
from plasticity.scripts.run.atomic_files import RunError, explained
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import Outcome, signals_noted
from plasticity.scripts.run.versions import made_by

POLL_SECONDS = 5.0
"""Seconds between two looks at the queue."""

ABSENCE_SECONDS = 60.0
"""Seconds without a job in the queue and without its result, after which it is taken to be lost: a shared
file system shows a new file late."""

MAX_TIMEOUTS = 1000
"""Number of time limits that a job may reach; each continues where the one before has stopped."""


@dataclass(frozen=True)
class SlurmUnit(Unit):
    """Unit that is queued again when its job reaches its time limit, or is preempted."""

    def __call__(self) -> Report:
        """Do the runs; without a result if the job was asked to stop, as it may be queued again.

        Raises:
            SystemExit: in that case, after the checkpoints are written.
        """
        report = super().__call__()
        if report.outcome.interrupted_by is not None:
            raise SystemExit(128 + int(report.outcome.interrupted_by))
        return report

    def checkpoint(self) -> Any:
        """Return the submission to queue again: the same, as its folders know how far it is."""
        import submitit  # noqa: PLC0415  (an extra)

        return submitit.helpers.DelayedSubmission(self)


class SlurmLauncher:
    """Launcher of Slurm jobs.

    Args:
        options: What each job asks for.
        folder: Shared folder for the jobs' files and logs.
        most: Jobs at once; None: as many as Slurm lets run.
    """

    def __init__(self, options: SlurmOptions, folder: Path, most: int | None = None) -> None:
        self.options, self.folder, self.most = options, folder, most

    def require_ready(self) -> None:
        """Do `Launcher.require_ready`."""
        if find_spec("submitit") is None:
            raise RunError(
                "--launcher slurm needs submitit, which is not installed: pip install 'plasticity[slurm]'."
            )
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise RunError(
                    f"--launcher slurm needs Slurm's {program}, which is not on the PATH of this machine: run"
                    " the command on a login node of the cluster."
                )
        _asked("sinfo", "--noheader")

    def launch(
        self,
        work: Sequence[JobGroup],
        on_progress: Callable[[Job, float], None],
        on_note: Callable[[str], None],
    ) -> Outcome:
        """Do `Launcher.launch`."""
        outcome = Outcome()
        left = self._submitted(work)
        array = next(iter(left)).partition("_")[0]
        on_note(f"{len(left)} Slurm jobs submitted ({array}); their logs are in {self.folder}.")
        absent_since: dict[str, float] = {}
        with signals_noted(outcome):
            cancelled = False
            while left:
                if outcome.interrupted_by is not None and not cancelled:
                    _cancel(array)
                    cancelled = True
                queued = _queued(array, on_note)
                for name, (job, group) in list(left.items()):
                    report = _report(job)
                    if report is None and queued is not None:
                        is_over = _has_left(name, queued, absent_since, at_once=cancelled)
                        report = _lost(name, job.paths.stderr) if is_over else None
                    if report is None:
                        continue
                    del left[name]
                    if cancelled and isinstance(report, str):
                        outcome.stopped += [each.path for each in group.jobs]
                        continue
                    for note in report.notes if isinstance(report, Report) else ():
                        on_note(note)
                    settle(group, report, outcome, on_progress)
                time.sleep(POLL_SECONDS if left else 0.0)
        return outcome

    def _submitted(self, work: Sequence[JobGroup]) -> dict[str, tuple[Any, JobGroup]]:
        """Submit an array, and return submitit's jobs with their work, by Slurm's name."""
        import submitit  # noqa: PLC0415  (an extra)
        from submitit.core import utils  # noqa: PLC0415

        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            executor = submitit.SlurmExecutor(self.folder.resolve(), max_num_timeout=MAX_TIMEOUTS)
            executor.update_parameters(**self._parameters(len(work)))
            try:
                with executor.batch():
                    jobs = [executor.submit(SlurmUnit(group, made_by())) for group in work]
            except (utils.FailedJobError, utils.FailedSubmissionError) as error:
                raise _refused("sbatch", str(error)) from error
        return {job.job_id: (job, group) for job, group in zip(jobs, work, strict=True)}

    def _parameters(self, count: int) -> dict[str, Any]:
        options = self.options
        found: dict[str, Any] = {
            "job_name": "plasticity",
            "time": options.minutes,
            "mem": f"{max(1, round(options.memory * 1024))}MB",
            "cpus_per_task": options.cores,
            "array_parallelism": self.most or count,
            "additional_parameters": {
                "requeue": True
            },  # when a node is lost, or the job is preempted
        }
        if options.partition is not None:
            found["partition"] = options.partition
        if options.gpus:
            found["gpus_per_node"] = options.gpus
        return found


def _report(job: Any) -> Report | str | None:
    """Return what a job has sent back, or the error that ended it; None if there is nothing yet."""
    import submitit  # noqa: PLC0415  (an extra)

    if not job.paths.result_pickle.exists():
        return None
    try:
        report: Report = job.result()
    except submitit.core.utils.UncompletedJobError as error:  # of which FailedJobError is one
        return str(error)
    return report


def _has_left(
    name: str, queued: set[str], absent_since: dict[str, float], *, at_once: bool
) -> bool:
    """Return whether a job has been gone from the queue for long; if it has not, it may still report."""
    if name in queued:
        absent_since.pop(name, None)
        return False
    since = absent_since.setdefault(name, time.monotonic())
    return at_once or time.monotonic() - since >= ABSENCE_SECONDS


def _lost(name: str, log: Path) -> str:
    """Return a message about a job that is gone without a result, with the last words of its log."""
    try:
        said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        said = []
    last = next((line.strip() for line in reversed(said) if line.strip()), "nothing")
    return (
        f'Slurm job {name} ended without a result, and {log} ends with "{last}". Its node vanished and it was'
        " not queued again, or it exceeded its memory (--slurm.memory), or the disk of --out is full, or it"
        " was cancelled. Its checkpoint is intact."
    )


def _queued(array: str, on_note: Callable[[str], None]) -> set[str] | None:
    """Return the names of those of an array that wait or run; None if Slurm does not answer now."""
    try:
        listed = _asked("squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}")
    except RunError as error:
        if re.search("Invalid job id", str(error)):  # all have ended, some time ago
            return set()
        on_note(f"{error} The jobs go on; asked again soon.")
        time.sleep(POLL_SECONDS)
        return None
    return set(listed.split())


def _cancel(array: str) -> None:
    """Cancel an array.

    Raises:
        RunError: if Slurm does not answer; the message says that the jobs go on.
    """
    try:
        _asked("scancel", array)
    except RunError as error:
        raise RunError(f"{error} The jobs go on; this ends them: scancel {array}") from error


def _asked(*command: str) -> str:
    """Return what one of Slurm's programs prints.

    Raises:
        RunError: if it fails, or does not end within a minute.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise _refused(command[0], "no answer within a minute") from None
    if done.returncode != 0:
        raise _refused(command[0], done.stderr)
    return done.stdout


def _refused(program: str, message: str) -> RunError:
    """Return an error with the remedy for what one of Slurm's programs says."""
    text = " ".join(message.split())
    if re.search("munge|credential|authentication", text, re.IGNORECASE):
        remedy = (
            "see that munge runs here and on the controller, and that their clocks agree (differences above"
            " five minutes are refused): have NTP set them"
        )
    elif re.search("contact|connect|no answer|resolve", text, re.IGNORECASE):
        remedy = (
            "Slurm does not answer; `scontrol ping` tells about its controller. Nothing is lost, the same"
            " command continues"
        )
    elif re.search("job array|Submit ?Job ?Limit", text, re.IGNORECASE):
        remedy = (
            "more jobs than it takes at once (MaxArraySize of `scontrol show config`, or your account's"
            " limit): give --stack, which makes several runs one job, or fewer methods and seeds at a time"
        )
    elif re.search("partition", text, re.IGNORECASE):
        remedy = "give a --slurm.partition that `sinfo` lists"
    else:
        remedy = "give other --slurm options; `sinfo` lists what there is"
    return RunError(f"Slurm's {program} failed ({text}): {remedy}.")
