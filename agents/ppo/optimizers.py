"""Optimizers of actor and critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import nn

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.optim.kernels.step import step_options
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings


class Optimizer(Protocol):
    """Interface of `StackedOptimizer` on which PPO relies, whatever takes the steps."""

    def set_learning_rate(self, rates: Sequence[float], /) -> None:
        """Set the learning rate of each policy."""

    def freeze(self, index: int, /) -> None:
        """Keep a policy as it is from now on."""

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """Return a policy's state, in the format of an ordinary optimizer."""

    def load_state_dict(self, index: int, state: Mapping[str, Any], /) -> None:
        """Load a state into a policy."""


def actor_optimizer(
    policy: ActorCritic, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the actor and its `log_std`, which is not regularized."""
    groups = parameter_groups(policy.actor, **asdict(regularizer))
    if policy.log_std is not None:
        groups.append({"params": [policy.log_std], "regularizer": "none", "strength": 0.0})
    return _adam(groups, policy.actor, config)


def critic_optimizer(
    critic: nn.Module, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the critic."""
    return _adam(parameter_groups(critic, **asdict(regularizer)), critic, config)


def _adam(
    groups: list[dict[str, object]], network: nn.Module, config: PPOConfig
) -> RegularizedOptimizer:
    device = next(network.parameters()).device
    return regularized(torch.optim.Adam)(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        capturable=config.compile and device.type == "cuda",
        **step_options(config.kernel, torch.optim.Adam, device),
    )
