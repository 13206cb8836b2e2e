"""Launcher: what starts runs on other machines, and which one the options ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from plasticity.scripts.config.options import CommandOptions
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import Outcome


class Launcher(Protocol):
    """Starts runs, and waits for them; the folders of the runs are what it shares with them."""

    def require_ready(self) -> None:
        """Raise an error if nothing can be started.

        Raises:
            RunError: with the remedy, if a package or program is missing, or the cluster does not answer.
        """

    def launch(
        self,
        work: Sequence[JobGroup],
        on_progress: Callable[[Job, float], None],
        on_note: Callable[[str], None],
    ) -> Outcome:
        """Do all work; as `plasticity.scripts.run.pool.run_jobs`.

        After Ctrl-C or SIGTERM the jobs are cancelled: each run writes a checkpoint before it ends.

        Args:
            work: Work of each job.
            on_progress: Called with a run and its progress, at its end.
            on_note: Called with a message to the user.

        Raises:
            RunError: if the cluster refuses the jobs.
        """


def launcher_of(options: CommandOptions) -> Launcher | None:
    """Return the launcher that the options ask for; None for this machine's processes."""
    if options.launcher == "slurm":
        from plasticity.scripts.launch.slurm import SlurmLauncher  # noqa: PLC0415  (of its own)

        return SlurmLauncher(options.slurm, options.out / "slurm", options.jobs)
    if options.launcher == "ray":
        from plasticity.scripts.launch.ray import RayLauncher  # noqa: PLC0415  (of its own)

        return RayLauncher(options.ray, options.jobs)
    return None
