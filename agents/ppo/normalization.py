"""Running mean and variance, and PPO's normalization of observations and rewards by them.

Computed in float64: a running variance in float32 stops changing after a few million samples. Everything has
leading dimensions `*lead`: none for one agent, (R,) for R stacked ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8
"""Number added to a variance before taking its root."""

CLIP = 10.0
"""Bound to which normalized numbers are clipped: ±10."""


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def of_agent(tensor: Tensor, lead: tuple[int, ...], index: int) -> Tensor:
    """Return the part of a tensor that belongs to one agent, as a view: (*lead, …) to (…)."""
    return tensor[index] if lead else tensor


class RunningStatistics:
    """Mean and variance of all samples so far (Chan et al., 1979), initialized as 1e-4 samples of (0, 1).

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
        self._lead, self._dtype = lead, widest_float(torch.device(device))

        def full(number: float, *size: int) -> Tensor:
            return torch.full((*lead, *size), number, dtype=self._dtype, device=device)

        self.mean, self.variance, self.count = full(0, *shape), full(1, *shape), full(1e-4)

    @torch.no_grad()
    def update(self, samples: Tensor) -> None:
        """Add equally many samples of each agent. Shape: (*lead, batch, *shape)."""
        samples, dim = samples.to(self._dtype), len(self._lead)
        known = self.count.view((*self._lead, *[1] * (self.mean.dim() - dim)))
        # a tensor, because torch divides a number by a tensor by way of its reciprocal
        batch = torch.full_like(known, samples.shape[dim])
        total = known + batch
        variance, mean = _variance_and_mean(samples, dim)
        shift = mean - self.mean
        squares = self.variance * known + variance * batch
        self.mean = self.mean + shift * (batch / total)
        self.variance = (squares + shift.square() * (known * batch / total)) / total
        self.count = self.count + samples.shape[dim]

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return mean, variance and count of one agent."""
        mean, variance, count = (
            of_agent(each, self._lead, index) for each in (self.mean, self.variance, self.count)
        )
        return {
            "mean": mean.cpu().clone(),
            "variance": variance.cpu().clone(),
            "count": float(count),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], index: int = 0) -> None:
        """Let one agent continue from a `state_dict`."""
        of_agent(self.mean, self._lead, index).copy_(state["mean"])
        of_agent(self.variance, self._lead, index).copy_(state["variance"])
        of_agent(self.count, self._lead, index).fill_(state["count"])


def _variance_and_mean(samples: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    if samples.device.type == "cpu":  # numpy is faster for so few numbers
        array = samples.numpy()
        return torch.as_tensor(array.var(axis=dim)), torch.as_tensor(array.mean(axis=dim))
    return torch.var_mean(samples, dim=dim, correction=0)


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

    @torch.no_grad()
    def __call__(self, observations: Tensor, *, learn: bool = True) -> Tensor:
        """Normalize observations, by default after updating the statistics.

        Args:
            observations: Observations of any type. Shape: (*lead, batch, size).
            learn: Whether to update the statistics.

        Returns:
            Normalized observations in float64, (*lead, batch, size).
        """
        statistics = self.statistics
        if learn:
            statistics.update(observations)
        deviation = (statistics.variance + EPSILON).sqrt()
        shifted = observations - statistics.mean.unsqueeze(-2)
        return (shifted / deviation.unsqueeze(-2)).clamp_(-CLIP, CLIP)


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
        self.returns = self.statistics.mean.new_zeros((*lead, num_envs))

    @torch.no_grad()
    def __call__(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Update the statistics with one step's rewards and scale them.

        Args:
            rewards: Rewards of the step. Shape: (*lead, num_envs).
            ended: Whether the episode ended with this step; bool. Shape: (*lead, num_envs).
        """
        self.returns = self.returns * self.gamma + rewards
        self.statistics.update(self.returns)
        self.returns.masked_fill_(ended, 0.0)
        deviation = (self.statistics.variance + EPSILON).sqrt()
        return (rewards / deviation.unsqueeze(-1)).clamp_(-CLIP, CLIP)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the statistics and the running returns of one agent."""
        return {
            "statistics": self.statistics.state_dict(index),
            "returns": of_agent(self.returns, self._lead, index).cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any], index: int = 0) -> None:
        """Let one agent continue from a `state_dict`."""
        self.statistics.load_state_dict(state["statistics"], index)
        of_agent(self.returns, self._lead, index).copy_(state["returns"])
