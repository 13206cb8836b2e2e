"""Values, advantages and log-probabilities of a rollout of all agents, computed after the rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.agents.ppo.advantages import generalized_advantages
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.policies import Policies
from plasticity.agents.ppo.rollout import Rollout


@torch.no_grad()
def evaluate(
    rollout: Rollout, policies: Policies, config: PPOConfig
) -> tuple[Batch, dict[str, Tensor]]:
    """Prepare a rollout for an update. Does not wait for the device.

    Args:
        rollout: Complete rollout.
        policies: Policies that acted.
        config: Settings of each agent.

    Returns:
        The batch that the update learns from, partly views of the rollout; and policy_entropy (nats) and
        explained_variance, the share of the returns' variance that the critic explained, (*lead,).
    """
    values, next_values = _values(rollout, policies)
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
    outputs, actions = rollout.flat(rollout.outputs), rollout.flat(rollout.actions)
    batch = Batch(
        observations=rollout.acted_on,
        actions=actions,
        log_probabilities=policies.log_probabilities(outputs, actions),
        advantages=rollout.flat(advantages),
        values=rollout.flat(values),
        returns=rollout.flat(returns),
    )
    return batch, {
        "policy_entropy": policies.entropy(outputs),
        "explained_variance": _explained(batch.returns, batch.values),
    }


def _values(rollout: Rollout, policies: Policies) -> tuple[Tensor, Tensor]:
    """Return the values of all observations and of those that followed them, (*lead, steps, envs)."""
    steps, envs = rollout.num_steps, rollout.num_envs
    if rollout.is_dense:
        # The two differ only at ends of episodes from one row to the next, but the host does not know where.
        values, next_values = (
            policies.values(observations).view(*rollout.lead, steps, envs)
            for observations in (rollout.acted_on, rollout.flat(rollout.final_observations))
        )
        return values, next_values
    every = policies.values(rollout.flat(rollout.observations)).view(steps + 1, envs)
    values, next_values = every[:-1], every[1:].clone()
    limits = (rollout.truncated & ~rollout.terminated).flatten().nonzero().squeeze(-1)
    if len(limits):
        final = rollout.flat(rollout.final_observations)[limits]
        next_values.view(-1)[limits] = policies.values(final)
    return values, next_values


def _explained(returns: Tensor, values: Tensor) -> Tensor:
    """Return the explained share of each agent's variance, (*lead, N) to (*lead,)."""
    share = 1 - (returns - values).var(-1) / returns.var(-1)
    # Equal returns have no variance to explain, although rounding may leave a little.
    return share.where(returns.amax(-1) != returns.amin(-1), torch.nan)
