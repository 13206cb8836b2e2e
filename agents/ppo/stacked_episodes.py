"""Episodes in the environments of R stacked agents, counted on the host from a whole rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticity.agents.ppo.episodes import Episode

Array = NDArray[Any]


class StackedEpisodes:
    """Tracks the current episode of each environment across rollouts, as `RunningEpisodes` does step by step.

    Args:
        num_stacked: Number of agents.
        num_envs: Number of environments of each agent.
    """

    def __init__(self, num_stacked: int, num_envs: int) -> None:
        self._num_envs = num_envs
        environments = num_stacked * num_envs
        self._returns = np.zeros(environments)
        self._lengths = np.zeros(environments, np.int64)
        self._tasks = np.full(environments, -1)
        self._frictions = np.full(environments, math.nan)

    def read(
        self,
        rewards: Array,
        ended: Array,
        tasks: Array,
        frictions: Array,
        num_steps: Sequence[int],
    ) -> list[tuple[Episode, ...]]:
        """Count the episodes of a rollout.

        Args:
            rewards: Rewards as returned by the environments. Shape: (steps, environments).
            ended: Whether a step ended its episode; bool. Shape: (steps, environments).
            tasks: Tasks before each step and after the last one; -1: none. Shape: (steps + 1, environments).
            frictions: Frictions, likewise; nan: none. Shape: (steps + 1, environments).
            num_steps: Environment steps of each agent before the rollout.

        Returns:
            For each agent, the episodes that ended, by the time of their end.
        """
        found: list[list[Episode]] = [[] for _ in num_steps]
        steps, environments = np.nonzero(ended)
        bounds = np.searchsorted(steps, np.arange(len(rewards) + 1)).tolist()
        for step, row in enumerate(rewards):
            self._returns += row
            self._lengths += 1
            for column in environments[bounds[step] : bounds[step + 1]].tolist():
                index, environment = divmod(column, self._num_envs)
                episode = Episode(
                    num_steps[index] + (step + 1) * self._num_envs,
                    environment,
                    float(self._returns[column]),
                    int(self._lengths[column]),
                    _task(tasks[step, column]),
                    _friction(frictions[step, column]),
                )
                found[index].append(episode)
                self._returns[column] = 0.0
                self._lengths[column] = 0
        self._tasks[:], self._frictions[:] = tasks[-1], frictions[-1]
        return [tuple(episodes) for episodes in found]

    def newest(self, index: int) -> tuple[int | None, float | None]:
        """Return the highest task among an agent's environments, and the friction of that environment."""
        own = self._own(index)
        newest = own.start + int(self._tasks[own].argmax())
        return _task(self._tasks[newest]), _friction(self._frictions[newest])

    def _own(self, index: int) -> slice:
        return slice(index * self._num_envs, (index + 1) * self._num_envs)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return the state of one agent in the format of `RunningEpisodes`."""
        own = self._own(index)
        tasks, frictions = self._tasks[own], self._frictions[own]
        return {
            "returns": torch.tensor(self._returns[own]),
            "lengths": torch.tensor(self._lengths[own]),
            "tasks": None if (tasks < 0).all() else torch.tensor(tasks),
            "frictions": None if np.isnan(frictions).all() else torch.tensor(frictions),
        }

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load a `state_dict` of equally many environments into one agent."""
        own = self._own(index)
        self._returns[own] = state["returns"].cpu().numpy()
        self._lengths[own] = state["lengths"].cpu().numpy()
        tasks, frictions = state["tasks"], state["frictions"]
        self._tasks[own] = -1 if tasks is None else tasks.cpu().numpy()
        self._frictions[own] = math.nan if frictions is None else frictions.cpu().numpy()


def _task(number: Any) -> int | None:
    return None if number < 0 else int(number)


def _friction(number: Any) -> float | None:
    return None if np.isnan(number) else float(number)
