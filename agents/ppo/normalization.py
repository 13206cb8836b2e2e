"""Running mean and variance, and PPO's normalization of observations and rewards by them.

Computed on the host in float64: a running variance in float32 stops changing after a few million samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

EPSILON = 1e-8
"""Number added to a variance before taking its root."""

CLIP = 10.0
"""Bound to which normalized numbers are clipped: ±10."""


class RunningStatistics:
    """Mean and variance of all samples so far (Chan et al., 1979), initialized as 1e-4 samples of (0, 1).

    Args:
        shape: Shape of a sample.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.mean = np.zeros(shape)
        self.variance = np.ones(shape)
        self.count = 1e-4

    def update(self, samples: Array) -> None:
        """Add samples. Shape: (batch, *shape)."""
        samples = np.asarray(samples, np.float64)
        count = samples.shape[0]
        total = self.count + count
        shift = samples.mean(axis=0) - self.mean
        squares = self.variance * self.count + samples.var(axis=0) * count
        self.mean = self.mean + shift * (count / total)
        self.variance = (squares + shift**2 * (self.count * count / total)) / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Return mean, variance and count."""
        return {
            "mean": torch.tensor(self.mean),
            "variance": torch.tensor(self.variance),
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.mean = state["mean"].cpu().numpy().copy()
        self.variance = state["variance"].cpu().numpy().copy()
        self.count = float(state["count"])


class ObservationNormalizer:
    """Shifts and scales observations by the statistics of those seen so far.

    Args:
        size: Size of an observation.
    """

    def __init__(self, size: int) -> None:
        self.statistics = RunningStatistics((size,))

    def __call__(self, observations: Array, *, learn: bool = True) -> Array:
        """Normalize observations, by default after updating the statistics. Shape: (batch, size)."""
        if learn:
            self.statistics.update(observations)
        deviation = np.sqrt(self.statistics.variance + EPSILON)
        return np.clip((observations - self.statistics.mean) / deviation, -CLIP, CLIP)


class RewardNormalizer:
    """Scales rewards by the running standard deviation of the discounted return.

    Rewards are not shifted, as in OpenAI's Baselines: a shift would change the optimal policy.

    Args:
        num_envs: Number of environments.
        gamma: Discount per step.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.statistics = RunningStatistics()
        self.gamma = gamma
        self.returns = np.zeros(num_envs)

    def __call__(self, rewards: Array, ended: Array) -> Array:
        """Update the statistics with one step's rewards and scale them.

        Args:
            rewards: Rewards of the step. Shape: (num_envs,).
            ended: Whether the episode ended with this step; bool. Shape: (num_envs,).
        """
        self.returns = self.returns * self.gamma + rewards
        self.statistics.update(self.returns)
        self.returns[ended] = 0.0
        return np.clip(rewards / np.sqrt(self.statistics.variance + EPSILON), -CLIP, CLIP)

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics and the running returns."""
        return {
            "statistics": self.statistics.state_dict(),
            "returns": torch.tensor(self.returns),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.statistics.load_state_dict(state["statistics"])
        self.returns = state["returns"].cpu().numpy().copy()
