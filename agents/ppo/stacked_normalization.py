"""Running mean and variance of each replica, on the device: as `normalization`, with a replica axis.

In float64, as there: a running variance in float32 stops moving after some million samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity.agents.ppo.normalization import CLIP, EPSILON


class StackedStatistics:
    """Mean and variance of all samples of each replica so far, started as 1e-4 samples of (0, 1).

    Args:
        replicas: How many.
        shape: Of a sample.
        device: Where they are kept.
    """

    def __init__(self, replicas: int, shape: tuple[int, ...], device: torch.device) -> None:
        def full(number: float, *size: int) -> Tensor:
            return torch.full((replicas, *size), number, dtype=torch.float64, device=device)

        self.mean, self.variance, self.count = full(0, *shape), full(1, *shape), full(1e-4)

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Take in as many samples of each replica; float64. Shape: (replicas, batch, *shape)."""
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
        """Of one replica, as `RunningStatistics` has it."""
        return {
            "mean": self.mean[index].cpu().clone(),
            "variance": self.variance[index].cpu().clone(),
            "count": float(self.count[index]),
        }

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Continue one replica from a `state_dict`."""
        self.mean[index] = state["mean"].to(self.mean)
        self.variance[index] = state["variance"].to(self.mean)
        self.count[index] = state["count"]


class StackedObservationNormalizer:
    """Shifts and scales observations by the statistics of those that their replica has seen so far.

    Args:
        replicas: How many.
        size: Numbers in an observation.
        device: Of the observations.
    """

    def __init__(self, replicas: int, size: int, device: torch.device) -> None:
        self.statistics = StackedStatistics(replicas, (size,), device)

    @torch.no_grad()
    def __call__(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        """Normalise, by default after taking the observations in.

        Args:
            observations: Shape: (replicas * envs, size).
            learn: Whether to take them in.
        """
        statistics = self.statistics
        samples = observations.double().view(len(statistics.mean), -1, observations.shape[-1])
        if learn:
            statistics.update(samples)
        deviation = (statistics.variance + EPSILON).sqrt()
        normalised = (samples - statistics.mean.unsqueeze(1)) / deviation.unsqueeze(1)
        return normalised.clamp_(-CLIP, CLIP).view(observations.shape)


class StackedRewardNormalizer:
    """Scales rewards by the running standard deviation of their replica's discounted return.

    Args:
        replicas: How many.
        num_envs: Environments of each.
        gamma: Discount of a step.
        device: Of the rewards.
    """

    def __init__(self, replicas: int, num_envs: int, gamma: float, device: torch.device) -> None:
        self.statistics = StackedStatistics(replicas, (), device)
        self.gamma = gamma
        self.returns = torch.zeros(replicas, num_envs, dtype=torch.float64, device=device)

    @torch.no_grad()
    def __call__(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Take one step's rewards in and scale them.

        Args:
            rewards: Shape: (replicas * envs,).
            ended: Whether the episode ended with this step; bool. Shape: (replicas * envs,).
        """
        samples = rewards.double().view(self.returns.shape)
        self.returns = self.returns * self.gamma + samples
        self.statistics.update(self.returns)
        self.returns.masked_fill_(ended.view(self.returns.shape), 0.0)
        deviation = (self.statistics.variance + EPSILON).sqrt()
        return (samples / deviation.unsqueeze(1)).clamp_(-CLIP, CLIP).view(-1)

    def state_dict(self, index: int) -> dict[str, Any]:
        """Of one replica, as `RewardNormalizer` has it."""
        return {
            "statistics": self.statistics.state_dict(index),
            "returns": self.returns[index].cpu().clone(),
        }

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Continue one replica from a `state_dict`."""
        self.statistics.load_state_dict(index, state["statistics"])
        self.returns[index] = state["returns"].to(self.returns)
