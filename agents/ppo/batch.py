"""Rollout of one policy, or of R stacked ones, in the form in which PPO learns from it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Flattened rollout that an update learns from.

    The leading dimensions `*lead` are none for one policy, and (R,) for R stacked ones. N is the number of
    steps that each policy took, `rollout_steps`.
    """

    observations: Tensor
    """Observations. Shape: (*lead, N, observation_size)."""

    actions: Tensor
    """Actions as sampled, before any clipping. Shape: (*lead, N, action_size), or (*lead, N) for integers."""

    log_probabilities: Tensor
    """Log-probabilities of the actions under the policy that took them. Shape: (*lead, N)."""

    advantages: Tensor
    """Advantages of the actions. Shape: (*lead, N)."""

    values: Tensor
    """Values before the update. Shape: (*lead, N)."""

    returns: Tensor
    """Targets of the values. Shape: (*lead, N)."""
