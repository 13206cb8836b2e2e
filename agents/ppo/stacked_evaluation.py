"""Values, advantages and log-probabilities of a rollout of R stacked agents, computed after the rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.agents.ppo.advantages import generalized_advantages
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.agents.ppo.stacked_rollout import StackedRollout


@torch.no_grad()
def evaluate(
    rollout: StackedRollout, policies: StackedPolicies, config: PPOConfig
) -> tuple[Batch, dict[str, Tensor]]:
    """Make the batch that an update learns from. Does not wait for the device.

    Args:
        rollout: Complete rollout.
        policies: Policies that acted, before the update.
        config: Settings of each agent.

    Returns:
        The batch, and the entropy of each policy and the share of the returns' variance that its critic
        explained, (R,).
    """
    (num_stacked,) = policies.lead
    values = _values(policies, rollout.observations[:-1], num_stacked)
    # Values of final observations differ from the next step's values only at time limits. All of them are
    # computed, since the host does not know where the limits are without waiting for the device.
    next_values = _values(policies, rollout.final_observations, num_stacked)
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
    means, actions = (_of_each(each, num_stacked) for each in (rollout.means, rollout.actions))
    observations = _of_each(rollout.observations[:-1], num_stacked)
    found = policies.log_probabilities(means, actions)
    numbers = (_of_each(each, num_stacked) for each in (advantages, values, returns))
    return Batch(observations, actions, found, *numbers), {
        "policy_entropy": policies.entropy(means),
        "explained_variance": _explained(_split(returns, num_stacked), _split(values, num_stacked)),
    }


def _of_each(numbers: Tensor, num_stacked: int) -> Tensor:
    """Group by agent. Shape: (steps, R * envs, ...) to (R, steps * envs, ...)."""
    return _split(numbers, num_stacked).transpose(0, 1).flatten(1, 2)


def _split(numbers: Tensor, num_stacked: int) -> Tensor:
    """Split by agent. Shape: (steps, R * envs, ...) to (steps, R, envs, ...)."""
    return numbers.view(len(numbers), num_stacked, -1, *numbers.shape[2:])


def _values(policies: StackedPolicies, observations: Tensor, num_stacked: int) -> Tensor:
    """Return each critic's values of its own observations.

    Shape: (steps, R * envs, observation_size) to (steps, R * envs).
    """
    values = policies.values(_of_each(observations, num_stacked))
    return values.view(num_stacked, len(observations), -1).transpose(0, 1).flatten(1, 2)


def _explained(returns: Tensor, values: Tensor) -> Tensor:
    """Return the explained share of each agent's variance, (steps, R, envs) to (R,)."""
    share = 1 - (returns - values).var((0, 2)) / returns.var((0, 2))
    # Equal returns have no variance to explain, although rounding may leave a little.
    return share.where(returns.amax((0, 2)) != returns.amin((0, 2)), torch.nan)
