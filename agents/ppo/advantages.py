"""Generalised advantage estimation (Schulman et al., 2016, Eq. 16), with time limits told from deaths."""

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
    """Discounted sums of temporal-difference errors, within episodes.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t), without V(s_{t+1}) where the episode died, and
    A_t = delta_t + gamma lambda A_{t+1}, without A_{t+1} where it ended in either way. After a time limit
    the state goes on having a value: s_{t+1} is there the last observation of the old episode, not the
    first of the new one.

    The recursion is summed by doubling: after k rounds each entry holds 2^k terms. So it takes
    log2(steps) operations on whole tensors rather than `steps` operations on rows.

    Args:
        rewards: Shape: (steps, envs).
        values: V(s_t). Shape: (steps, envs).
        next_values: V(s_{t+1}); where an episode died, any finite number. Shape: (steps, envs).
        terminated: Whether step t killed its episode; bool. Shape: (steps, envs).
        truncated: Whether step t reached its time limit; bool. A death at the limit is a death. Shape:
            (steps, envs).
        gamma: Discount of a step.
        gae_lambda: 0 is one-step temporal difference, 1 Monte Carlo.

    Returns:
        Advantages, (steps, envs); add `values` for the returns that a critic learns.
    """
    alive = (~terminated).to(rewards.dtype)
    goes_on = (~(terminated | truncated)).to(rewards.dtype)
    advantages = rewards + gamma * alive * next_values - values
    reach = gamma * gae_lambda * goes_on  # weight of the advantage that lies `span` steps ahead
    span, steps = 1, rewards.shape[0]
    while span < steps:
        advantages = torch.cat(
            (advantages[:-span] + reach[:-span] * advantages[span:], advantages[-span:])
        )
        reach = torch.cat((reach[:-span] * reach[span:], reach[-span:]))
        span *= 2
    return advantages
