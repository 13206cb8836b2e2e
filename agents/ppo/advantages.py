"""Generalized advantage estimation (Schulman et al., 2016, Eq. 16); time limits are not deaths."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Sum discounted temporal-difference errors within episodes.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t), without V(s_{t+1}) if the episode died, and
    A_t = delta_t + gamma lambda A_{t+1}, without A_{t+1} if it ended either way. At a time limit the state
    still has a value: s_{t+1} is then the last observation of the old episode, not the first of the new one.

    The recursion is summed by doubling: after k rounds each entry holds 2^k terms, so that it takes
    log2(steps) operations on whole tensors instead of `steps` operations on rows.

    Args:
        rewards: Rewards r_t. Shape: (…, steps, envs).
        values: V(s_t). Shape: (…, steps, envs).
        next_values: V(s_{t+1}); any finite number where an episode died. Shape: (…, steps, envs).
        terminated: Whether the episode died at step t; bool. Shape: (…, steps, envs).
        truncated: Whether the episode reached its time limit at step t; bool. A death at the limit counts
            as a death. Shape: (…, steps, envs).
        gamma: Discount per step.
        gae_lambda: Lambda of the estimator: 0 is one-step temporal difference, 1 is Monte Carlo.

    Returns:
        Advantages, (…, steps, envs). Add `values` for the returns that a critic learns.
    """
    alive = (~terminated).to(rewards.dtype)
    goes_on = (~(terminated | truncated)).to(rewards.dtype)
    advantages = rewards + gamma * alive * next_values - values
    reach = gamma * gae_lambda * goes_on  # weight of the advantage `span` steps ahead
    span, steps = 1, rewards.shape[-2]
    while span < steps:
        now, later = advantages[..., :-span, :], advantages[..., span:, :]
        near, far = reach[..., :-span, :], reach[..., span:, :]
        advantages = torch.cat((now + near * later, advantages[..., -span:, :]), -2)
        reach = torch.cat((near * far, reach[..., -span:, :]), -2)
        span *= 2
    return advantages
