"""Running mean and variance, and PPO's normalization of observations and rewards by them.

Computed in float64: a running variance in float32 stops changing after a few million samples. Everything has
leading dimensions `*lead`: none for one agent, (R,) for R stacked ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.execution.single import part_of

EPSILON = 1e-8
"""Number added to a variance before taking its root."""

CLIP = 10.0
"""Bound to which normalized numbers are clipped: ±10."""


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class RunningStatistics:
    """Mean and variance of all samples so far (Chan et al., 1979), initialized as 1e-4 samples of (0, 1).

    On a CPU its numbers are numpy's arrays, which take a third of the time of tensors for so few of them;
    elsewhere they are tensors. The formulas are written once for both.

    Args:
        shape: Shape of a sample.
        lead: Leading dimensions.
        device: Device of the statistics.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (),
        lead: tuple[int, ...] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        self._lead, self._device = lead, torch.device(device)
        self._dtype = widest_float(self._device)
        self._is_numpy = self._device.type == "cpu"
        self.mean = self.full(0.0, *shape)
        self.variance = self.full(1.0, *shape)
        self.count = self.full(1e-4)

    def full(self, number: float, *shape: int) -> Any:
        """Return an array or a tensor of one number. Shape: (*lead, *shape)."""
        return self.native(torch.full((*self._lead, *shape), number, dtype=torch.float64))

    def native(self, tensor: Tensor) -> Any:
        """Return a tensor in the form of the statistics: an array, or float64 on the device."""
        moved = tensor.to(self._device, self._dtype)
        return moved.numpy() if self._is_numpy else moved

    def update(self, samples: Any) -> None:
        """Add equally many samples of each agent, in the form of the statistics.

        Shape: (*lead, batch, *shape).
        """
        dim, batch = len(self._lead), samples.shape[len(self._lead)]
        variance = samples.var(dim) if self._is_numpy else samples.var(dim, correction=0)
        known = self.count[(..., *[None] * (self.mean.ndim - dim))] if dim else self.count
        total = known + batch
        shift = samples.mean(dim) - self.mean
        squares = self.variance * known + variance * batch
        self.mean = self.mean + shift * (batch / total)
        self.variance = (squares + shift**2 * (known * batch / total)) / total
        self.count = self.count + batch

    def deviation(self) -> Any:
        """Return the root of the variance plus `EPSILON`. Shape: (*lead, *shape)."""
        return (np if self._is_numpy else torch).sqrt(self.variance + EPSILON)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return mean, variance and count of one agent."""
        mean, variance, count = (
            torch.as_tensor(part_of(each, self._lead, index)).cpu().clone()
            for each in (self.mean, self.variance, self.count)
        )
        return {"mean": mean, "variance": variance, "count": float(count)}

    def load_state_dict(self, state: dict[str, Any], index: int = 0) -> None:
        """Let one agent continue from a `state_dict`."""
        count = torch.tensor(state["count"], dtype=torch.float64)
        saved = {"mean": state["mean"], "variance": state["variance"], "count": count}
        for name, tensor in saved.items():
            numbers = self.native(tensor.clone())
            if self._lead:
                getattr(self, name)[index] = numbers
            else:
                setattr(self, name, numbers)


class ObservationNormalizer:
    """Shifts and scales observations by the statistics of those seen so far.

    Args:
        size: Size of an observation.
        lead: Leading dimensions.
        device: Device of the observations.
    """

    def __init__(
        self, size: int, lead: tuple[int, ...] = (), device: str | torch.device = "cpu"
    ) -> None:
        self.statistics = RunningStatistics((size,), lead, device)

    def __call__(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        """Normalize observations, by default after updating the statistics.

        Args:
            observations: Observations of any type. Shape: (*lead, batch, size).
            learn: Whether to update the statistics.

        Returns:
            Normalized observations in float64, (*lead, batch, size).
        """
        statistics, samples = self.statistics, self.statistics.native(observations)
        if learn:
            statistics.update(samples)
        mean, deviation = (each[..., None, :] for each in (statistics.mean, statistics.deviation()))
        return torch.as_tensor(((samples - mean) / deviation).clip(-CLIP, CLIP))


class RewardNormalizer:
    """Scales rewards by the running standard deviation of the discounted return.

    Rewards are not shifted, as in OpenAI's Baselines: a shift would change the optimal policy.

    Args:
        num_envs: Number of environments of each agent.
        gamma: Discount per step.
        lead: Leading dimensions.
        device: Device of the rewards.
    """

    def __init__(
        self,
        num_envs: int,
        gamma: float,
        lead: tuple[int, ...] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        self.statistics = RunningStatistics((), lead, device)
        self.gamma = gamma
        self._lead = lead
        self.returns = self.statistics.full(0.0, num_envs)

    def __call__(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Update the statistics with one step's rewards and scale them.

        Args:
            rewards: Rewards of the step. Shape: (*lead, num_envs).
            ended: Whether the episode ended with this step; bool. Shape: (*lead, num_envs).
        """
        statistics = self.statistics
        given = statistics.native(rewards)
        returns = self.returns * self.gamma + given
        statistics.update(returns)
        self.returns = returns
        torch.as_tensor(returns).masked_fill_(ended, 0.0)  # on the same memory
        scaled = given / statistics.deviation()[..., None]
        return torch.as_tensor(scaled.clip(-CLIP, CLIP))

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the statistics and the running returns of one agent."""
        returns = torch.as_tensor(part_of(self.returns, self._lead, index))
        return {
            "statistics": self.statistics.state_dict(index),
            "returns": returns.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any], index: int = 0) -> None:
        """Let one agent continue from a `state_dict`."""
        self.statistics.load_state_dict(state["statistics"], index)
        self.returns[index if self._lead else ...] = self.statistics.native(state["returns"])
