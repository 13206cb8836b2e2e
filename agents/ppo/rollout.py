"""Storage for PPO's rollouts on the learner's device, and what of it the host reads."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.agents.ppo.environments import Environments
from plasticity.agents.ppo.normalization import widest_float

Array = NDArray[Any]


class Rollout:
    """Preallocated storage of all agents: *lead is () for one agent, and (R,) for R stacked ones.

    Args:
        num_steps: Steps of each environment.
        num_envs: Number of environments of each agent.
        lead: Leading dimensions.
        envs: Environments of all agents.
        observation_dtype: Type in which observations are kept. None: torch's default type.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        lead: tuple[int, ...],
        envs: Environments,
        observation_dtype: torch.dtype | None = None,
    ) -> None:
        self.num_steps, self.num_envs, self.lead = num_steps, num_envs, lead

        def zeros(*shape: int, steps: int = num_steps, dtype: torch.dtype | None = None) -> Tensor:
            return torch.zeros(*lead, steps, num_envs, *shape, dtype=dtype, device=envs.device)

        self.observations = zeros(
            envs.observation_size, steps=num_steps + 1, dtype=observation_dtype
        )
        """Observations, normalized if that is on; the last one starts the next rollout. Shape:
        (*lead, steps + 1, envs, observation_size)."""
        self.final_observations = zeros(envs.observation_size, dtype=observation_dtype)
        """Observations after each step and before any reset, likewise; only at steps that ended an episode
        unless `is_dense`. Shape: (*lead, steps, envs, observation_size)."""
        self.is_dense = bool(lead) or envs.device.type != "cpu"
        """Whether all final observations are stored and evaluated. One agent on a CPU evaluates only those at
        time limits; elsewhere the host does not know where these are without waiting for the device, and
        stacked agents have different numbers of them."""
        self.outputs = zeros(envs.action_size)
        """Outputs of the actor: means or logits. Shape: (*lead, steps, envs, action_size)."""
        self.actions = zeros(dtype=torch.int64) if envs.discrete else zeros(envs.action_size)
        """Actions as sampled, before any clipping. Shape: (*lead, steps, envs, action_size), or
        (*lead, steps, envs)."""
        self.rewards = zeros(dtype=widest_float(envs.device))
        """Rewards as returned by the environments. Shape: (*lead, steps, envs)."""
        self.learnt_rewards = zeros(dtype=torch.float32)
        """Rewards that the critic learns from, normalized or scaled if that is on. Shape:
        (*lead, steps, envs)."""
        self.terminated = zeros(dtype=torch.bool)
        """Deaths. Shape: (*lead, steps, envs)."""
        self.truncated = zeros(dtype=torch.bool)
        """Time limits. Shape: (*lead, steps, envs)."""
        self.tasks = zeros(steps=num_steps + 1, dtype=torch.int64)
        """Tasks before each step and after the last one. Shape: (*lead, steps + 1, envs)."""

        # Made once, as making a view takes as long as a small operation.
        self.by_step = {
            name: stored.unbind(len(lead))
            for name, stored in vars(self).items()
            if isinstance(stored, Tensor)
        }
        """Views of each step of these tensors, by their names. Shape of each: (*lead, envs, …)."""

    def by_agent(self, numbers: Tensor) -> Tensor:
        """Divide numbers of all environments by agent, as a view: (R * envs, …) to (*lead, envs, …)."""
        return numbers.view(*self.lead, self.num_envs, *numbers.shape[1:])

    def flat(self, stored: Tensor) -> Tensor:
        """Line up steps and environments, as a view. Shape: (*lead, steps, envs, …) to (*lead, N, …)."""
        return stored.flatten(len(self.lead), len(self.lead) + 1)

    @property
    def acted_on(self) -> Tensor:
        """Observations that were acted on, flat: all but the last. Shape: (*lead, N, observation_size)."""
        return self.flat(self.observations.narrow(len(self.lead), 0, self.num_steps))


class HostCopy:
    """Copy on the host of the data from which episodes are counted, made while the device continues.

    Args:
        rollout: Rollout to copy from.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._there = rollout.rewards, rollout.terminated, rollout.truncated, rollout.tasks
        device = rollout.rewards.device
        is_cuda = device.type == "cuda"
        self._crosses = device.type != "cpu"
        self._here = [
            torch.empty_like(there, device="cpu", pin_memory=is_cuda) if self._crosses else there
            for there in self._there
        ]
        self._arrived: torch.cuda.Event | None = None
        if is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self) -> None:
        """Start the copy, which runs as soon as the rollout is done."""
        if self._crosses:
            for here, there in zip(self._here, self._there, strict=True):
                here.copy_(there, non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> tuple[Array, Array, Array]:
        """Wait until the copy has arrived. It is valid until the next rollout.

        Returns:
            Rewards and ends, (*lead, steps, envs), and tasks, (*lead, steps + 1, envs).
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        rewards, terminated, truncated, tasks = (here.numpy() for here in self._here)
        return rewards, terminated | truncated, tasks
