"""Storage and action selection for rollouts of R stacked PPO agents, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.agents.ppo.device_environments import DeviceEnvironments

Array = NDArray[Any]


class StackedRollout:
    """Preallocated storage for the environments of all agents, grouped by agent.

    Args:
        num_steps: Steps of each environment.
        envs: The environments.
    """

    def __init__(self, num_steps: int, envs: DeviceEnvironments) -> None:
        device, num_envs = envs.device, envs.num_envs

        def zeros(*shape: int, steps: int = num_steps, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(steps, num_envs, *shape, dtype=dtype, device=device)

        self.observations = zeros(envs.observation_size, steps=num_steps + 1)
        """Observations, normalized if that is on; the last one starts the next rollout. Shape:
        (steps + 1, envs, observation_size)."""
        self.final_observations = zeros(envs.observation_size)
        """Observations after each step and before any reset, likewise. Shape:
        (steps, envs, observation_size)."""
        self.means = zeros(envs.action_size)
        """Outputs of the actors. Shape: (steps, envs, action_size)."""
        self.actions = zeros(envs.action_size)
        """Actions as sampled. Shape: (steps, envs, action_size)."""
        self.rewards = zeros(dtype=torch.float64)
        """Rewards as returned by the environments. Shape: (steps, envs)."""
        self.learnt_rewards = zeros(dtype=torch.float32)
        """Rewards that the critics learn from, normalized if that is on. Shape: (steps, envs)."""
        self.terminated = zeros(dtype=torch.bool)
        """Deaths. Shape: (steps, envs)."""
        self.truncated = zeros(dtype=torch.bool)
        """Time limits. Shape: (steps, envs)."""
        self.tasks = zeros(steps=num_steps + 1, dtype=torch.int64)
        """Tasks before each step and after the last one. Shape: (steps + 1, envs)."""
        self.frictions = zeros(steps=num_steps + 1, dtype=torch.float64)
        """Frictions before each step and after the last one. Shape: (steps + 1, envs)."""


class StackedActing:
    """Action selection over fixed memory, so that it can be captured.

    Args:
        actor: Maps observations to outputs, (R, envs of each, …).
        envs: The environments.
        num_stacked: Number of agents that share the environments.
    """

    def __init__(
        self, actor: Callable[[Tensor], Tensor], envs: DeviceEnvironments, num_stacked: int
    ) -> None:
        device, each = envs.device, envs.num_envs // num_stacked
        self._actor = actor
        self._low, self._high = envs.action_low, envs.action_high
        self.observations = torch.zeros(num_stacked, each, envs.observation_size, device=device)
        """Observations, filled by the caller. Shape: (R, envs of each, observation_size)."""
        self.noise = torch.zeros(num_stacked, each, envs.action_size, device=device)
        """Noise added to the means, filled by the caller. Shape: (R, envs of each, action_size)."""
        self.moving = torch.ones(num_stacked, 1, 1, dtype=torch.bool, device=device)
        """Whether each agent acts; the environments of the others get the action nearest to 0."""
        self.means, self.actions, self.given = (torch.zeros_like(self.noise) for _ in range(3))
        self.run: Callable[[], None] = self.act
        """Runs `act`; may be replaced by its captured form."""

    @torch.no_grad()
    def act(self) -> None:
        """Fill `means`, `actions` (as sampled) and `given` (as passed to the environments).

        Shapes: (R, envs of each, action_size).
        """
        self.means.copy_(self._actor(self.observations))
        torch.add(self.means, self.noise, out=self.actions)
        # A policy that diverged returns nan, which a simulator may reject, as Warp's ants do.
        moving = torch.where(self.moving & ~self.actions.isnan(), self.actions, 0.0)
        torch.clamp(moving, self._low, self._high, out=self.given)


class HostCopy:
    """Copy on the host of the data from which episodes are counted, made while the device continues.

    Args:
        rollout: Rollout to copy from.
    """

    def __init__(self, rollout: StackedRollout) -> None:
        self._rollout = rollout
        device = rollout.rewards.device
        is_cuda = device.type == "cuda"
        self._crosses = device.type != "cpu"
        self._here = [
            torch.empty_like(there, device="cpu", pin_memory=is_cuda) if self._crosses else there
            for there in self._there()
        ]
        self._arrived: torch.cuda.Event | None = None
        if is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _there(self) -> Sequence[Tensor]:
        rollout = self._rollout
        return (
            rollout.rewards,
            rollout.terminated,
            rollout.truncated,
            rollout.tasks,
            rollout.frictions,
        )

    def send(self) -> None:
        """Start the copy, which runs as soon as the rollout is done."""
        if self._crosses:
            for here, there in zip(self._here, self._there(), strict=True):
                here.copy_(there, non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> tuple[Array, Array, Array, Array]:
        """Wait until the copy has arrived. It is valid until the next rollout.

        Returns:
            Rewards and ends, (steps, envs); tasks and frictions, (steps + 1, envs).
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        rewards, terminated, truncated, tasks, frictions = (here.numpy() for here in self._here)
        return rewards, terminated | truncated, tasks, frictions
