"""Rows of a run in a changing environment: when one is due, and its entries about episodes and learning."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from plasticity.agents.ppo.base_agent import Iteration
from plasticity.agents.ppo.episodes import Episode
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.seeds import child_seed


class ControlRows:
    """Rows of one run, without its metrics.

    A row is due every `measure_every` steps, and at each change of the task: at the end of the rollout in
    which the first environment met its new task. That row describes the task that ended.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: ControlRunConfig) -> None:
        self._config = config
        num_tasks = config.length // config.stream.change_every + 1
        self._stream = config.stream.make_stream(num_tasks, child_seed(config.seed, "stream"))
        self._task = 0
        self._row_steps = 0
        self._since_row: list[Episode] = []
        self._untaken: list[Episode] = []
        self._diverged = False

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return has_all_rows(self.state_dict(), self._config)

    @property
    def diverged(self) -> bool:
        """Whether a loss became NaN or infinite."""
        return self._diverged

    def take(self, iteration: Iteration) -> dict[str, Any] | None:
        """Record the latest iteration, and return a row if one is due."""
        self._since_row += iteration.episodes
        self._untaken += iteration.episodes
        newest = self._task if iteration.task is None else iteration.task
        boundary = newest > self._task
        is_due = iteration.num_steps % self._config.tracking.measure_every == 0
        if not (boundary or iteration.diverged or is_due):
            return None
        if is_due:
            self._row_steps = iteration.num_steps
        self._diverged = iteration.diverged
        row = self._row(iteration, boundary=boundary)
        self._task = newest
        return row

    def _row(self, iteration: Iteration, *, boundary: bool) -> dict[str, Any]:
        # All that ended since the previous row: around a change, some of them in the previous task.
        episodes, self._since_row = self._since_row, []
        return {
            "step": iteration.num_steps,
            "task": self._task,
            **self._stream.describe(self._task),
            "boundary": boundary,
            "episodes": len(episodes),
            "episode_return": _mean([each.episode_return for each in episodes]),
            "episode_length": _mean([float(each.episode_length) for each in episodes]),
            **iteration.statistics,
            "diverged": self._diverged,
        }

    def take_episodes(self) -> list[dict[str, Any]]:
        """Return the episodes that ended since the last call, in the order of their ends."""
        taken, self._untaken = self._untaken, []
        return [asdict(each) | self._description(each.task) for each in taken]

    def _description(self, task: int | None) -> dict[str, Any]:
        return {} if task is None else self._stream.describe(task)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later rows depend on."""
        return {
            "task": self._task,
            "row_steps": self._row_steps,
            "since_row": [asdict(each) for each in self._since_row],
            "untaken": [asdict(each) for each in self._untaken],
            "diverged": self._diverged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, which may have other entries too."""
        self._task = state["task"]
        self._row_steps = state["row_steps"]
        self._since_row = [Episode(**each) for each in state["since_row"]]
        self._untaken = [Episode(**each) for each in state["untaken"]]
        self._diverged = state["diverged"]


def has_all_rows(state: dict[str, Any], config: ControlRunConfig) -> bool:
    """Return whether a run that saved this `ControlRows.state_dict` has all its rows."""
    # Only a row ends a run, so that an extended run equals one that was longer from the start.
    return bool(state["diverged"]) or int(state["row_steps"]) >= config.stream.num_steps


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
