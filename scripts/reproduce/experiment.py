"""Experiment of a figure: the runner's protocol, from the few functions that a figure states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plasticity.scripts.reproduce.config import FigureConfig


class FigureExperiment(ABC):
    """Runs of a figure, step by step; a subclass states what a step is, and what a row tells.

    A figure with a single run at a time (`self.config` is its configuration) overrides the five abstract
    functions. One that trains R stacked networks also overrides `can_stack`; its steps are then those of all
    `self.configs` at once.

    A run whose row holds a number that is not finite has diverged: the row is its last.

    Args:
        configs: As in `plasticity.scripts.run.experiment.Experiment`.
        stacked: As there.
    """

    steps: int
    """Steps that are done."""

    def __init__(self, configs: Sequence[Any], *, stacked: bool) -> None:
        self.configs = configs
        self.stacked = stacked
        self.steps = 0
        self._diverged = [False] * len(configs)
        self.begin()

    # ---- what a figure states -----------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Make all runs, at their beginning."""

    @abstractmethod
    def step(self) -> None:
        """Do the next step of all runs; `steps` is the number of those before it."""

    @abstractmethod
    def measure(self, run: int) -> Mapping[str, float | None]:
        """Return the metrics of a run for its row; None for one that has no value."""

    @abstractmethod
    def state(self, run: int) -> dict[str, Any]:
        """Return all that the rest of a run depends on, but for its configuration and the number of steps."""

    @abstractmethod
    def load(self, run: int, state: Mapping[str, Any]) -> None:
        """Continue a run from its `state`; `steps` is set already."""

    @staticmethod
    def can_stack(config: Any) -> bool:
        """Return whether runs can be trained stacked."""
        return False

    # ---- what the runner asks for -------------------------------------------------------------------

    @property
    def config(self) -> Any:
        """Configuration of the run, or of the first of several."""
        return self.configs[0]

    @property
    def progress(self) -> float:
        """Steps that are done."""
        return self.steps

    def is_finished(self, run: int) -> bool:
        """Return whether a run has all its steps, or diverged."""
        return self._diverged[run] or self.steps >= self.configs[run].length

    def has_diverged(self, run: int) -> bool:
        """Return whether a run ended because a number in a row was not finite."""
        return self._diverged[run]

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Do steps until a row is due; none if stopped before."""
        config: FigureConfig = self.config
        while not should_stop():
            self.step()
            self.steps += 1
            if config.has_row(self.steps):
                live = [run for run, ended in enumerate(self._diverged) if not ended]
                return {run: self.row(run) for run in live}
        return {}

    def row(self, run: int) -> dict[str, Any]:
        """Return the row of a run: its `measure`, and whether it has diverged."""
        measured = self.measure(run)
        finite = all(value is None or math.isfinite(value) for value in measured.values())
        self._diverged[run] = not finite
        return {self.config.axes[-1]: self.steps, **measured, "diverged": not finite}

    def take_episodes(self, run: int) -> list[dict[str, Any]]:
        """Return no rows: there are no episodes."""
        return []

    def state_dicts(self, runs: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs."""
        return [
            {"steps": self.steps, "diverged": self._diverged[run], "run": self.state(run)}
            for run in runs
        ]

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Continue a run from its state."""
        self.steps, self._diverged[run] = state["steps"], state["diverged"]
        self.load(run, state["run"])

    def rehearse(self) -> None:
        """Do a step, and measure each run."""
        self.step()
        for run in range(len(self.configs)):
            self.measure(run)

    def close(self) -> None:  # noqa: B027  (of use to few figures)
        """Release nothing: there are no processes."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the steps that are done in a state."""
        return float(state["steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: Any) -> bool:
        """Return whether a run with this state has all the rows that a configuration requests."""
        return bool(state["diverged"] or state["steps"] >= config.length)

    @staticmethod
    def can_be_alone(config: Any) -> bool:
        """Return True: an experiment trains a single run as well."""
        return True

    @staticmethod  # noqa: B027  (of use to few figures)
    def require_runnable(configs: Sequence[Any]) -> None:
        """Accept all configurations; a figure with data of its own downloads them here."""

    @staticmethod
    def modules(config: Any) -> Sequence[str]:
        """Return no modules: none is imported late."""
        return ()
