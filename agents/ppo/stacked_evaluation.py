"""Values, advantages and log-probabilities of a rollout of R stacked agents, computed after the rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.agents.ppo.advantages import generalized_advantages
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.stacked_gradients import StackedDense
from plasticity.agents.ppo.stacked_rollout import StackedRollout
from plasticity.agents.ppo.stacked_updates import (
    StackedBatch,
    stacked_entropies,
    stacked_log_probabilities,
)
from plasticity.agents.ppo.updates import normalized


@torch.no_grad()
def evaluate(
    rollout: StackedRollout,
    critic: StackedDense,
    log_std: Tensor,
    config: PPOConfig,
    batch: StackedBatch,
) -> dict[str, Tensor]:
    """Fill the batch that an update learns from. Does not wait for the device.

    Args:
        rollout: Complete rollout.
        critic: Critics before the update.
        log_std: Log standard deviations of the policies that acted. Shape: (R, action_size).
        config: Settings of each agent.
        batch: Batch to fill, except for observations and actions, which are the rollout's.

    Returns:
        The entropy of each policy, and the share of the returns' variance that its critic explained, (R,).
    """
    num_stacked = len(log_std)
    values = _values(critic, rollout.observations[:-1], num_stacked)
    # Values of final observations differ from the next step's values only at time limits. All of them are
    # computed, since the host does not know where the limits are without waiting for the device.
    next_values = _values(critic, rollout.final_observations, num_stacked)
    advantages = generalized_advantages(
        rollout.learnt_rewards,
        values,
        next_values,
        rollout.terminated,
        rollout.truncated,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    returns = advantages + values
    batch.values.copy_(values.flatten())
    batch.returns.copy_(returns.flatten())
    if config.normalize_advantages == "rollout":
        advantages = normalized(_split(advantages, num_stacked), dim=(0, 2))
    batch.advantages.copy_(advantages.flatten())
    means, actions = (_split(each, num_stacked) for each in (rollout.means, rollout.actions))
    found = stacked_log_probabilities(means, log_std, actions)
    batch.log_probabilities.copy_(found.flatten())
    return {
        "policy_entropy": stacked_entropies(log_std),
        "explained_variance": _explained(_split(returns, num_stacked), _split(values, num_stacked)),
    }


def _split(numbers: Tensor, num_stacked: int) -> Tensor:
    """Split by agent. Shape: (steps, R * envs, ...) to (steps, R, envs, ...)."""
    return numbers.view(len(numbers), num_stacked, -1, *numbers.shape[2:])


def _values(critic: StackedDense, observations: Tensor, num_stacked: int) -> Tensor:
    """Return each critic's values of its own observations.

    Shape: (steps, R * envs, observation_size) to (steps, R * envs).
    """
    steps = len(observations)
    of_each = _split(observations, num_stacked).transpose(0, 1).flatten(1, 2)
    return critic(of_each).view(num_stacked, steps, -1).transpose(0, 1).reshape(steps, -1)


def _explained(returns: Tensor, values: Tensor) -> Tensor:
    """Return the explained share of each agent's variance, (steps, R, envs) to (R,)."""
    share = 1 - (returns - values).var((0, 2)) / returns.var((0, 2))
    # Equal returns have no variance to explain, although rounding may leave a little.
    return share.where(returns.amax((0, 2)) != returns.amin((0, 2)), torch.nan)
