"""Options of the launchers: where runs are started, and what each job asks a cluster for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plasticity.checks import require_integer, require_number

LauncherName = Literal["local", "slurm", "ray"]
"""Launchers by their name."""


LEAST_MINUTES = 5
"""Shortest time limit of a Slurm job: it is told to stop 90 s before the limit, which Slurm may do a minute
earlier, and dies of that signal while Python is still starting."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Request of each Slurm job.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    partition: str | None = None
    """Partition of the jobs. None: the cluster's default."""

    minutes: int = 240
    """Time limit of a job in minutes, at least 5; a job that reaches it writes its checkpoint and is queued
    again."""

    memory: float = 4.0
    """Memory of a job in gigabytes."""

    gpus: int = 0
    """GPUs of a job."""

    cores: int = 1
    """Cores of a job."""

    def __post_init__(self) -> None:
        if require_integer("--slurm.minutes", self.minutes, minimum=1) < LEAST_MINUTES:
            raise ValueError(
                f"--slurm.minutes must be at least {LEAST_MINUTES}, not {self.minutes}: Slurm tells a job to"
                " stop up to 2.5 minutes before its limit, and it needs time to start."
            )
        require_integer("--slurm.gpus", self.gpus, minimum=0)
        require_integer("--slurm.cores", self.cores, minimum=1)
        if require_number("--slurm.memory", self.memory, minimum=0.0) == 0:
            raise ValueError(
                "--slurm.memory must be above 0 gigabytes, not 0: a run takes about 1."
            )


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Address of Ray, and request of each of its tasks.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    address: str | None = None
    """Address of a Ray that runs already, host:port or auto. None: a local one is started."""

    gpus: float = 0.0
    """GPUs of a task; a fraction shares one."""

    cores: int = 1
    """Cores of a task."""

    def __post_init__(self) -> None:
        require_number("--ray.gpus", self.gpus, minimum=0.0)
        require_integer("--ray.cores", self.cores, minimum=1)
