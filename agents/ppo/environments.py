"""Environments as PPO steps them, on the host or on a device, and the seeds of their first resets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.seeds import child_seed

__all__ = ["EnvironmentStep", "Environments", "environment_seeds"]


class EnvironmentStep(Protocol):
    """Results of a vector step, on the environments' device. The next step may reuse their memory."""

    @property
    def observations(self) -> Tensor:
        """Observations after the step, or after the reset that followed it.

        Shape: (num_envs, observation_size).
        """

    @property
    def rewards(self) -> Tensor:
        """Rewards of the step. Shape: (num_envs,)."""

    @property
    def terminated(self) -> Tensor:
        """Deaths; bool. Shape: (num_envs,)."""

    @property
    def truncated(self) -> Tensor:
        """Time limits; bool. Shape: (num_envs,)."""

    @property
    def final_observations(self) -> Tensor:
        """Observations after the step and before any reset: `observations` where no episode ended.

        If the host knows that no episode ended, this may be the same tensor as `observations`, which saves
        work. Shape: (num_envs, observation_size).
        """


class Environments(Protocol):
    """Environments on a device: no method waits for it unless its docstring says so.

    An episode that ends is followed by a reset within the same step. The random draws of an environment
    depend only on its own seed and the number of its own episode, never on its index or on how many
    environments there are.

    Examples:
        >>> import gymnasium
        >>> from gymnasium.vector import AutoresetMode, SyncVectorEnv
        >>> envs = SyncVectorEnv(
        ...     [lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
        ... )
        >>> on_host: Environments = HostEnvironments(envs, seeds=[0, 1])
        >>> on_host.reset().shape
        torch.Size([2, 4])
        >>> on_host.step(torch.tensor([0, 1])).rewards.tolist()
        [1.0, 1.0]
    """

    num_envs: int
    """Number of environments."""

    observation_size: int
    """Size of an observation."""

    action_size: int
    """Size of a continuous action, or number of discrete actions."""

    discrete: bool
    """Whether actions are discrete."""

    device: torch.device
    """Device of all tensors."""

    @property
    def action_low(self) -> Tensor | None:
        """Lower bound of continuous actions, (action_size,); None if actions are discrete."""

    @property
    def action_high(self) -> Tensor | None:
        """Upper bound of continuous actions, (action_size,); None if actions are discrete."""

    def reset(self) -> Tensor:
        """Reset all environments with the seeds given to the constructor.

        Returns:
            Observations, (num_envs, observation_size). The next step may reuse their memory.
        """

    def step(self, actions: Tensor) -> EnvironmentStep:
        """Step all environments.

        Args:
            actions: Actions within the bounds, (num_envs, action_size), or the numbers of discrete actions
                from 0; int64, (num_envs,).
        """

    @property
    def tasks(self) -> Tensor:
        """Tasks of the current episodes; int64, -1: none. Shape: (num_envs,)."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on.

        The first dimension of every entry is num_envs, so that a slice is the state of one stacked agent.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, or from one concatenated from slices."""

    def check(self) -> None:
        """Check for errors on the device since the last check; this waits for the device.

        Raises:
            RuntimeError: if any buffer of the simulation overflowed, so that its numbers are invalid.
        """

    def close(self) -> None:
        """Release all resources of the environments."""


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """Return the seeds of the first resets in a run with this seed, (num_envs,).

    They have 31 bits: environments that seed numpy's legacy generator accept at most 32.
    """
    return [child_seed(seed, f"environment/{index}") >> 32 for index in range(num_envs)]
