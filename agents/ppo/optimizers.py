"""Optimizers of actor and critic."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.optim.kernels.step import step_options
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings


def actor_optimizer(
    policy: ActorCritic, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the actor and its `log_std`, which is not regularized."""
    groups = _groups(policy.actor, regularizer)
    if policy.log_std is not None:
        groups.append({"params": [policy.log_std], "regularizer": "none", "strength": 0.0})
    return _adam(groups, policy.actor, config)


def critic_optimizer(
    critic: nn.Module, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the critic."""
    return _adam(_groups(critic, regularizer), critic, config)


def _groups(network: nn.Module, regularizer: RegularizerSettings) -> list[dict[str, object]]:
    settings = {field.name: getattr(regularizer, field.name) for field in fields(regularizer)}
    return parameter_groups(network, **settings)


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


def parameters_of(optimizer: RegularizedOptimizer) -> list[Tensor]:
    """Return the parameters of all groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_learning_rate(optimizer: RegularizedOptimizer, learning_rate: float | Tensor) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
