"""Values, advantages and log-probabilities of R replicas' rollout, in batches when it is done."""

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
        rollout: Whole.
        critic: Before the update.
        log_std: Of the policies that acted. Shape: (replicas, action_size).
        config: Of one replica.
        batch: Filled, but for observations and actions, which are the rollout's.

    Returns:
        The entropy of each policy, and the share of the returns' variance that its critic explained,
        (replicas,).
    """
    replicas = len(log_std)
    values = _values(critic, rollout.observations[:-1], replicas)
    # Those of what each step ended with differ from the next step's only before a time limit. All are
    # asked for: where the limits were, the host does not know without waiting for the device.
    next_values = _values(critic, rollout.final_observations, replicas)
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
        advantages = normalized(_apart(advantages, replicas), dim=(0, 2))
    batch.advantages.copy_(advantages.flatten())
    means, actions = (_apart(each, replicas) for each in (rollout.means, rollout.actions))
    found = stacked_log_probabilities(means, log_std, actions)
    batch.log_probabilities.copy_(found.flatten())
    return {
        "policy_entropy": stacked_entropies(log_std),
        "explained_variance": _explained(_apart(returns, replicas), _apart(values, replicas)),
    }


def _apart(numbers: Tensor, replicas: int) -> Tensor:
    """Shape: (steps, replicas * envs, ...) to (steps, replicas, envs, ...)."""
    return numbers.view(len(numbers), replicas, -1, *numbers.shape[2:])


def _values(critic: StackedDense, observations: Tensor, replicas: int) -> Tensor:
    """Shape: (steps, envs, observation_size) to (steps, envs)."""
    steps = len(observations)
    of_each = _apart(observations, replicas).transpose(0, 1).flatten(1, 2)
    return critic(of_each).view(replicas, steps, -1).transpose(0, 1).reshape(steps, -1)


def _explained(returns: Tensor, values: Tensor) -> Tensor:
    """Share of each replica's variance, (steps, replicas, envs) to (replicas,)."""
    share = 1 - (returns - values).var((0, 2)) / returns.var((0, 2))
    # Of equal returns there is no variance to explain, though rounding may leave a little.
    return share.where(returns.amax((0, 2)) != returns.amin((0, 2)), torch.nan)
