"""Normalization of R stacked agents on the device: `plasticity.agents.ppo.normalization` with an axis of R.

Computed in float64 too: a running variance in float32 stops changing after a few million samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity.agents.ppo.normalization import CLIP, EPSILON


class StackedStatistics:
    """Mean and variance of all samples of each agent so far, initialized as 1e-4 samples of (0, 1).

    Args:
        num_stacked: Number of agents.
        shape: Shape of a sample.
        device: Device of the statistics.
    """

    def __init__(self, num_stacked: int, shape: tuple[int, ...], device: torch.device) -> None:
        def full(number: float, *size: int) -> Tensor:
            return torch.full((num_stacked, *size), number, dtype=torch.float64, device=device)

        self.mean, self.variance, self.count = full(0, *shape), full(1, *shape), full(1e-4)

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Add equally many samples of each agent; float64. Shape: (R, batch, *shape)."""
        batch = samples.shape[1]
        known = self.count.view(-1, *[1] * (self.mean.dim() - 1))
        total = known + batch
        variance, mean = torch.var_mean(samples, dim=1, correction=0)
        shift = mean - self.mean
        squares = self.variance * known + variance * batch
        self.mean += shift * (batch / total)
        self.variance = (squares + shift.square() * (known * batch / total)) / total
        self.count += batch

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return the state of one agent in the format of `RunningStatistics`."""
        return {
            "mean": self.mean[index].cpu().clone(),
            "variance": self.variance[index].cpu().clone(),
            "count": float(self.count[index]),
        }

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Load a `state_dict` into one agent."""
        self.mean[index] = state["mean"].to(self.mean)
        self.variance[index] = state["variance"].to(self.mean)
        self.count[index] = state["count"]


class StackedObservationNormalizer:
    """Shifts and scales observations by the statistics of those that their agent has seen so far.

    Args:
        num_stacked: Number of agents.
        size: Size of an observation.
        device: Device of the observations.
    """

    def __init__(self, num_stacked: int, size: int, device: torch.device) -> None:
        self.statistics = StackedStatistics(num_stacked, (size,), device)

    @torch.no_grad()
    def __call__(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        """Normalize observations, by default after updating the statistics.

        Args:
            observations: Observations of all agents. Shape: (R * envs, size).
            learn: Whether to update the statistics.
        """
        statistics = self.statistics
        samples = observations.double().view(len(statistics.mean), -1, observations.shape[-1])
        if learn:
            statistics.update(samples)
        deviation = (statistics.variance + EPSILON).sqrt()
        normalised = (samples - statistics.mean.unsqueeze(1)) / deviation.unsqueeze(1)
        return normalised.clamp_(-CLIP, CLIP).view(observations.shape)


class StackedRewardNormalizer:
    """Scales rewards by the running standard deviation of their agent's discounted return.

    Args:
        num_stacked: Number of agents.
        num_envs: Number of environments of each agent.
        gamma: Discount per step.
        device: Device of the rewards.
    """

    def __init__(self, num_stacked: int, num_envs: int, gamma: float, device: torch.device) -> None:
        self.statistics = StackedStatistics(num_stacked, (), device)
        self.gamma = gamma
        self.returns = torch.zeros(num_stacked, num_envs, dtype=torch.float64, device=device)

    @torch.no_grad()
    def __call__(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Update the statistics with one step's rewards and scale them.

        Args:
            rewards: Rewards of all agents. Shape: (R * envs,).
            ended: Whether the episode ended with this step; bool. Shape: (R * envs,).
        """
        samples = rewards.double().view(self.returns.shape)
        self.returns = self.returns * self.gamma + samples
        self.statistics.update(self.returns)
        self.returns.masked_fill_(ended.view(self.returns.shape), 0.0)
        deviation = (self.statistics.variance + EPSILON).sqrt()
        return (samples / deviation.unsqueeze(1)).clamp_(-CLIP, CLIP).view(-1)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Return the state of one agent in the format of `RewardNormalizer`."""
        return {
            "statistics": self.statistics.state_dict(index),
            "returns": self.returns[index].cpu().clone(),
        }

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Load a `state_dict` into one agent."""
        self.statistics.load_state_dict(index, state["statistics"])
        self.returns[index] = state["returns"].to(self.returns)
