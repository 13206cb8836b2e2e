"""Experiment: the protocol of whatever the runner trains, found by the configuration of a run.

The runner, the run folder, the pool and the command know of a run only this protocol and `RunConfig`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from plasticity.scripts.config.run_config import RunConfig


class Experiment(Protocol):
    """Runs that are trained together, row by row: a single run, or several stacked ones.

    A run is addressed by its index in `configs`, from 0.

    Args:
        configs: Configurations of the runs, equal except for `plasticity.scripts.run.stacks.MAY_DIFFER`.
        stacked: Whether the stacked backend trains them, which may be given a single run, or the same run
            twice. Otherwise there is exactly one run, and the ordinary backend trains it.

    Raises:
        ValueError: if a setting and the data do not fit together.
        ImportError: if a package that the runs need is not installed.
    """

    configs: Sequence[Any]

    def __init__(self, configs: Sequence[Any], *, stacked: bool) -> None:
        """Make all runs, at their beginning."""

    @property
    def progress(self) -> float:
        """Progress of the runs that have not ended, in the units of their rows."""

    def is_finished(self, run: int) -> bool:
        """Return whether a run is complete."""

    def has_diverged(self, run: int) -> bool:
        """Return whether a run ended because something became NaN or infinite; it no longer changes then."""

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Work until the next row of any run.

        Args:
            should_stop: Called often; once it returns True, the runs stop where they are.

        Returns:
            Rows of metrics by run; none if stopped before one was due.
        """

    def take_episodes(self, run: int) -> list[dict[str, Any]]:
        """Return rows of the episodes that ended since the last call; none if there are no episodes."""

    def state_dicts(self, runs: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs, each alike whether its run is stacked or not.

        A state holds everything that the rest of its run depends on, except its configuration: tensors,
        numbers, strings, and lists and dicts of them. The entry `diverged` is that of `has_diverged`; all
        others concern the experiment alone.
        """

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Continue a run from its state; in the end, all runs must have the same progress."""

    def rehearse(self) -> None:
        """Do a little of everything that takes memory, to measure it; the runs are of no use afterwards."""

    def close(self) -> None:
        """Stop the processes of the runs, and release what they share."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the progress of a run with this state."""

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: Any) -> bool:
        """Return whether a run with this state has all the rows that a configuration requests."""

    @staticmethod
    def can_stack(config: Any) -> bool:
        """Return whether the stacked backend can train a run."""

    @staticmethod
    def can_be_alone(config: Any) -> bool:
        """Return whether the ordinary backend can train a run."""

    @staticmethod
    def require_runnable(configs: Sequence[Any]) -> None:
        """Raise an error if a run cannot be done here, without building its experiment; download its data.

        Args:
            configs: Configurations of the runs; of those equal except for method and seed, one is enough.

        Raises:
            ValueError: if a setting and the data do not fit together.
            DownloadError: if the data cannot be downloaded.
            RunError: if a package that the runs need is not installed.
        """

    @staticmethod
    def modules(config: Any) -> Sequence[str]:
        """Return the modules that a run imports late, for a process that imports them once for many runs."""


def experiment_class(config: RunConfig) -> type[Experiment]:
    """Return the class that trains runs of a configuration, which `RunConfig.experiment` names.

    Its module is imported only here: the options of a command do not wait for simulators.
    """
    module, _, name = config.experiment.partition(":")
    return cast("type[Experiment]", getattr(importlib.import_module(module), name))
