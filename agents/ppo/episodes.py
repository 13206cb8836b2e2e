"""Episodes in the environments of all agents, counted on the host from a whole rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Episode:
    """Completed episode.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> agent = PPO(envs, PPOConfig(rollout_steps=256, minibatch_size=64, epochs=1), seed=0)
        >>> first: Episode = agent.iterate().episodes[0]
        >>> first.episode_return == first.episode_length  # a reward of 1 for every step
        True
    """

    step: int
    """Environment steps of the whole run up to and including the vector step that ended the episode."""

    environment: int
    """Index of the environment, from 0."""

    episode_return: float
    """Sum of the rewards, as returned by the environment."""

    episode_length: int
    """Number of steps."""

    task: int | None
    """Task of the episode, from `info["task"]`; None if the environment has none, or not an integer."""


class RunningEpisodes:
    """Tracks the current episode of each environment across rollouts.

    Args:
        num_envs: Number of environments of each agent.
        num_agents: Number of agents.
    """

    def __init__(self, num_envs: int, num_agents: int = 1) -> None:
        self._num_envs = num_envs
        environments = num_agents * num_envs
        self._returns = np.zeros(environments)
        self._lengths = np.zeros(environments, np.int64)
        self._tasks = np.full(environments, -1)

    def read(
        self, rewards: Array, ended: Array, tasks: Array, num_steps: Sequence[int]
    ) -> list[tuple[Episode, ...]]:
        """Count the episodes of a rollout.

        Args:
            rewards: Rewards as returned by the environments. Shape: (*lead, steps, num_envs).
            ended: Whether a step ended its episode; bool. Shape: (*lead, steps, num_envs).
            tasks: Tasks before each step and after the last one; -1: none. Shape:
                (*lead, steps + 1, num_envs).
            num_steps: Environment steps of each agent before the rollout.

        Returns:
            For each agent, the episodes that ended, by the time of their end.
        """
        rewards, ended, tasks = (_by_step(each) for each in (rewards, ended, tasks))
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
                )
                found[index].append(episode)
                self._returns[column] = 0.0
                self._lengths[column] = 0
        self._tasks[:] = tasks[-1]
        return [tuple(episodes) for episodes in found]

    def newest_task(self, index: int = 0) -> int | None:
        """Return the highest task among an agent's environments."""
        return _task(self._tasks[self._own(index)].max())

    def _own(self, index: int) -> slice:
        return slice(index * self._num_envs, (index + 1) * self._num_envs)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of one agent's episodes as tensors."""
        own = self._own(index)
        return {
            "returns": torch.tensor(self._returns[own]),
            "lengths": torch.tensor(self._lengths[own]),
            "tasks": torch.tensor(self._tasks[own]),
        }

    def require_fitting(self, state: Mapping[str, Any]) -> None:
        """Raise an error if `load_state_dict` would reject this state.

        Raises:
            ValueError: if it has another number of environments.
        """
        saved = len(state["returns"])
        if saved != self._num_envs:
            raise ValueError(
                f"The state has {saved} environments, but there are {self._num_envs} here: continue with the"
                " same number."
            )

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Let one agent continue from a `state_dict`.

        Raises:
            ValueError: if it has another number of environments.
        """
        self.require_fitting(state)
        own = self._own(index)
        self._returns[own] = state["returns"].cpu().numpy()
        self._lengths[own] = state["lengths"].cpu().numpy()
        self._tasks[own] = state["tasks"].cpu().numpy()


def _by_step(numbers: Array) -> Array:
    """Line up the environments of all agents. Shape: (*lead, steps, num_envs) to (steps, environments)."""
    return np.moveaxis(numbers, -2, 0).reshape(numbers.shape[-2], -1)


def _task(number: Any) -> int | None:
    return None if number < 0 else int(number)
