"""Work of a process: a run, or a group of runs that are stacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity.scripts.config.run_config import RunConfig


@dataclass(frozen=True)
class Job:
    """Run to be done."""

    path: Path
    """Folder of the run."""

    config: RunConfig
    """Configuration of the run."""


@dataclass(frozen=True)
class JobGroup:
    """Runs to be done in one process: a single one, or several that are trained stacked."""

    jobs: tuple[Job, ...]
    """Runs of the group, each with its own folder; the configurations of several are such that
    `plasticity.scripts.run.stacks` groups them."""

    is_measured: bool = False
    """Whether to measure first how many of them fit into the device's memory, and to train them in parts of
    that size. Otherwise all of them are stacked."""

    had_more: bool = False
    """Whether other runs of the group are finished already. The rest is then stacked even if it is a single
    run, so that it rounds as it would with them."""
