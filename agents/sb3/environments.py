"""The environments of a run as Stable-Baselines3 steps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from plasticity.agents.ppo.environments import Environments

__all__ = ["SB3Environments"]

Array = NDArray[Any]


class SB3Environments(VecEnv):
    """`Environments` as a vector environment of Stable-Baselines3, which resets within a step, too.

    Observations are float32, which the networks compute in; actions are numbers from 0, or flat. An episode
    that its time limit cuts has ``TimeLimit.truncated`` and ``terminal_observation`` in its info, from which
    the algorithms bootstrap. The infos have nothing else: the learner is not told the task.

    The seeds are those that the environments were made with; that of the algorithm does not change them.

    Args:
        envs: The environments, on the CPU.
    """

    def __init__(self, envs: Environments) -> None:
        self.envs = envs
        """The environments themselves."""
        observations = spaces.Box(-np.inf, np.inf, (envs.observation_size,), np.float32)
        actions: spaces.Space[Any]
        if envs.discrete:
            actions = spaces.Discrete(envs.action_size)
        else:
            assert envs.action_low is not None
            assert envs.action_high is not None
            low, high = (each.cpu().numpy() for each in (envs.action_low, envs.action_high))
            actions = spaces.Box(low, high, dtype=np.float32)
        super().__init__(envs.num_envs, observations, actions)
        self._actions = torch.empty(0)
        self._rewards: list[Array] = []
        self._ended: list[Array] = []
        self._tasks: list[Array] = []

    def reset(self) -> Array:
        """Reset all environments, and return their observations. Shape: (num_envs, observation_size)."""
        return _float32(self.envs.reset())

    def step_async(self, actions: Array) -> None:
        """Take the actions of the next step."""
        self._actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step all environments.

        Returns:
            Observations, (num_envs, observation_size), rewards and ends of episodes, (num_envs,), and infos.
        """
        self._tasks.append(self._current_tasks())
        found = self.envs.step(self._actions)
        truncated, terminated = found.truncated.numpy(), found.terminated.numpy()
        ended = truncated | terminated
        rewards = found.rewards.numpy().astype(np.float64)
        self._rewards.append(rewards)
        self._ended.append(ended)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(ended).tolist():
            infos[index] = {
                "terminal_observation": _float32(found.final_observations[index]),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
            }
        # copies all, as the algorithms keep them, and change the rewards
        return _float32(found.observations), rewards.astype(np.float32), ended.copy(), infos

    def take_steps(self) -> tuple[Array, Array, Array]:
        """Return what happened in the steps since the last call.

        Returns:
            Rewards as returned by the environments, (steps, num_envs); whether a step ended its episode,
            likewise; tasks before each step and after the last one, -1: none, (steps + 1, num_envs).
        """
        tasks = [*self._tasks, self._current_tasks()]
        found = np.stack(self._rewards), np.stack(self._ended), np.stack(tasks)
        self._rewards, self._ended, self._tasks = [], [], []
        return found

    @property
    def newest_task(self) -> int:
        """Highest task of any environment; -1: none."""
        return int(self.envs.tasks.max())

    def _current_tasks(self) -> Array:
        tasks: Array = self.envs.tasks.numpy().copy()
        return tasks

    def close(self) -> None:
        """Do nothing: whoever made the environments closes them."""

    # ---- what the algorithms ask a vector environment for ------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return None for `render_mode` of each environment: the algorithms need nothing else."""
        if attr_name != "render_mode":
            raise AttributeError(f"The environments of a run have no {attr_name!r} to give.")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise an error: a run's environments are changed by their stream alone."""
        raise AttributeError(
            f"The environments of a run are changed by their stream: {attr_name!r}."
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Raise an error: the environments of a run are only stepped."""
        raise AttributeError(f"The environments of a run are only stepped: {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> Sequence[bool]:  # type: ignore[override]
        """Return False for each environment: none has a wrapper of Stable-Baselines3."""
        return [False for _ in self._get_indices(indices)]


def _float32(observations: torch.Tensor) -> Array:
    """Return a copy of observations as an array of float32."""
    return np.array(observations.numpy(), np.float32)
