"""The episodes of R replicas' environments, counted on the host from what a whole rollout tells of them."""

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
    """Each environment's episode across rollouts; what `RunningEpisodes` counts step by step.

    Args:
        replicas: How many.
        num_envs: Environments of each.
    """

    def __init__(self, replicas: int, num_envs: int) -> None:
        self._num_envs = num_envs
        environments = replicas * num_envs
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
        """Count a rollout.

        Args:
            rewards: As the environments gave them. Shape: (steps, environments).
            ended: Whether a step ended its episode; bool. Shape: (steps, environments).
            tasks: Before each step, and after the last one; -1: none. Shape: (steps + 1, environments).
            frictions: Likewise; nan: none. Shape: (steps + 1, environments).
            num_steps: Environment steps of each replica before the rollout.

        Returns:
            For each replica the episodes that ended, in order.
        """
        found: list[list[Episode]] = [[] for _ in num_steps]
        steps, places = np.nonzero(ended)
        bounds = np.searchsorted(steps, np.arange(len(rewards) + 1)).tolist()
        for step, row in enumerate(rewards):
            self._returns += row
            self._lengths += 1
            for place in places[bounds[step] : bounds[step + 1]].tolist():
                replica, environment = divmod(place, self._num_envs)
                episode = Episode(
                    num_steps[replica] + (step + 1) * self._num_envs,
                    environment,
                    float(self._returns[place]),
                    int(self._lengths[place]),
                    _task(tasks[step, place]),
                    _friction(frictions[step, place]),
                )
                found[replica].append(episode)
                self._returns[place] = 0.0
                self._lengths[place] = 0
        self._tasks[:], self._frictions[:] = tasks[-1], frictions[-1]
        return [tuple(episodes) for episodes in found]

    def newest(self, index: int) -> tuple[int | None, float | None]:
        """The highest task that an environment of a replica is in, and that environment's friction."""
        own = self._own(index)
        place = own.start + int(self._tasks[own].argmax())
        return _task(self._tasks[place]), _friction(self._frictions[place])

    def _own(self, index: int) -> slice:
        return slice(index * self._num_envs, (index + 1) * self._num_envs)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Of one replica, as `RunningEpisodes` has it."""
        own = self._own(index)
        tasks, frictions = self._tasks[own], self._frictions[own]
        return {
            "returns": torch.tensor(self._returns[own]),
            "lengths": torch.tensor(self._lengths[own]),
            "tasks": None if (tasks < 0).all() else torch.tensor(tasks),
            "frictions": None if np.isnan(frictions).all() else torch.tensor(frictions),
        }

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Continue one replica from a `state_dict` of as many environments."""
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
