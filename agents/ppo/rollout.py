"""Storage for PPO's rollouts, and the conversion of environment spaces to flat vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.seeds import child_seed

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Array = NDArray[Any]


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """Return the seeds of the first resets in a run with this seed, (num_envs,).

    They have 31 bits: environments that seed numpy's legacy generator accept at most 32.
    """
    return [child_seed(seed, f"environment/{index}") >> 32 for index in range(num_envs)]


@dataclass(frozen=True)
class Spaces:
    """Observations and actions of a vector environment, as PPO sees them."""

    observation_size: int
    """Size of a flattened observation."""

    action_size: int
    """Size of a flattened continuous action, or number of discrete actions."""

    discrete: bool
    """Whether actions are discrete."""

    action_shape: tuple[int, ...]
    """Shape of one continuous action; () for discrete actions."""

    action_dtype: np.dtype[Any]
    """Data type of the actions that the environment accepts."""

    low: Array
    """Lower bounds of a flattened continuous action, (action_size,), or the first discrete action, ()."""

    high: Array
    """Upper bounds of a flattened continuous action, (action_size,), or the last discrete action, ()."""

    @classmethod
    def of(cls, envs: VectorEnv[Any, Any, Any]) -> Spaces:
        """Read the spaces of one environment.

        Raises:
            TypeError: if observations are not a Box, or actions neither a Box nor Discrete.
            ValueError: if the environments do not reset themselves within the step that ends an episode.
        """
        # Callers that have an environment have already imported gymnasium; importing this module must not.
        from gymnasium import spaces  # noqa: PLC0415

        mode = envs.metadata.get("autoreset_mode")
        if getattr(mode, "value", mode) != "SameStep":
            raise ValueError(
                f"PPO needs environments that reset within the last step of an episode, not {mode!r}: set"
                " autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP."
            )
        observations, actions = envs.single_observation_space, envs.single_action_space
        if not isinstance(observations, spaces.Box):
            raise TypeError(
                f"PPO needs observations from a Box, not {observations}: wrap each environment in"
                " gymnasium.wrappers.FlattenObservation."
            )
        size = int(np.prod(observations.shape))
        if isinstance(actions, spaces.Discrete):
            first = np.asarray(actions.start)
            dtype = np.dtype(actions.dtype)
            return cls(size, int(actions.n), True, (), dtype, first, first + int(actions.n) - 1)
        if not isinstance(actions, spaces.Box) or not np.issubdtype(actions.dtype, np.floating):
            raise TypeError(
                f"PPO needs actions from a Box of floats or from Discrete, not {actions}: wrap each"
                " environment to convert them."
            )
        low, high = (bound.astype(np.float32).ravel() for bound in (actions.low, actions.high))
        return cls(size, low.size, False, actions.shape, np.dtype(actions.dtype), low, high)


class Rollout:
    """Preallocated storage, on the learner's device except for data used only by the host.

    Args:
        num_steps: Steps of each environment.
        num_envs: Number of environments.
        spaces: Spaces of the environments.
        device: Device of the learner.
    """

    def __init__(self, num_steps: int, num_envs: int, spaces: Spaces, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        self.observations = zeros(num_steps + 1, num_envs, spaces.observation_size)
        """Observations; the last one starts the next rollout. Shape: (steps + 1, envs, observation_size)."""
        self.outputs = zeros(num_steps, num_envs, spaces.action_size)
        """Outputs of the actor: means or logits. Shape: (steps, envs, action_size)."""
        self.actions = (
            torch.zeros(num_steps, num_envs, dtype=torch.int64, device=device)
            if spaces.discrete
            else zeros(num_steps, num_envs, spaces.action_size)
        )
        """Actions as sampled, before any clipping. Shape: (steps, envs, action_size), or (steps, envs)."""
        self.rewards = np.zeros((num_steps, num_envs), np.float32)
        """Rewards on the host, normalized if that is on. Shape: (steps, envs)."""
        self.terminated = np.zeros((num_steps, num_envs), np.bool_)
        """Deaths, on the host. Shape: (steps, envs)."""
        self.truncated = np.zeros((num_steps, num_envs), np.bool_)
        """Time limits, on the host. Shape: (steps, envs)."""
        self.final_indices: list[int] = []
        """Indices at which an episode reached its time limit alive: step * envs + environment."""
        self.final_observations: list[Array] = []
        """Last observation of each of those episodes, (observation_size,)."""
        # Transfers to and from a GPU go through page-locked memory, which saves one copy each way.
        pinned = device.type == "cuda"
        self._in = torch.zeros(num_envs, spaces.observation_size, pin_memory=pinned)
        self._out = torch.zeros(self.actions.shape[1:], dtype=self.actions.dtype, pin_memory=pinned)

    def store_observations(self, step: int, observations: Array) -> None:
        """Copy the host's observations to the device. Shape: (envs, observation_size)."""
        # The previous copy has finished: actions have been read back since.
        self._in.copy_(torch.from_numpy(np.ascontiguousarray(observations)))
        self.observations[step].copy_(self._in, non_blocking=True)

    def store_actions(self, step: int, outputs: Tensor, actions: Tensor) -> Array:
        """Store the actor's outputs and actions; return the actions on the host, (envs, …)."""
        self.outputs[step].copy_(outputs)
        self.actions[step].copy_(actions)
        self._out.copy_(actions)  # waits for the device, once per vector step
        return self._out.numpy()
