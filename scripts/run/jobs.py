"""What is to be done: a run, or a group of runs that train at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity.scripts.config.run_config import RunConfig


@dataclass(frozen=True)
class Job:
    """One run to be done."""

    path: Path
    """Its folder."""

    config: RunConfig
    """Its configuration."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Itself, where several might be."""
        return (self,)


@dataclass(frozen=True)
class JobGroup:
    """Runs to be trained at once in one process."""

    jobs: tuple[Job, ...]
    """Each in a folder of its own; of configurations that `plasticity.scripts.run.stacks` puts together."""

    is_measured: bool = False
    """Whether to find out first how many of them the device's memory holds; they are then trained in
    parts of that many. Otherwise all of them are, at once."""

    had_more: bool = False
    """Whether other runs of the group are finished. What is left of it then rounds as it would with them."""


Work = Job | JobGroup
"""What a process does."""
