"""Halves of an update as a policy makes them: networks, their optimizer, and their mitigations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from plasticity.agents.execution.hooks import make_hooks
from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.gradients import Gradients, gradients_of
from plasticity.agents.ppo.optimizers import critic_optimizer
from plasticity.agents.ppo.updates import CriticUpdate
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.hooks import Hooks
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


def passes_and_hooks(
    networks: SingleNetwork | StackedNetworks,
    optimizer: SingleOptimizer | StackedOptimizer,
    methods: Sequence[SeededMethod],
    config: PPOConfig,
) -> tuple[Gradients, Hooks | None]:
    """Return the passes of actors or critics, and their mitigations that act on steps, if there are any.

    Args:
        networks: Actor or critic, or stacked ones.
        optimizer: Their optimizer.
        methods: Method of each.
        config: Settings of the update.

    Raises:
        ValueError: if the configuration does not go with such mitigations.
    """
    hooks = make_hooks(networks, optimizer, methods)
    if hooks is None:
        return gradients_of(networks, config.minibatch_size), None
    for each in methods[0].mitigations:
        if each.reads_batches:
            raise ValueError(
                f"{each.name} needs the examples of the task that begins, which an agent in an environment"
                " does not have: leave it out."
            )
    if config.compile:
        raise ValueError(
            f"{hooks.names} cannot be part of a compiled update, which is one CUDA graph of all its steps:"
            " leave compile out."
        )
    if config.target_kl is not None and isinstance(networks, StackedNetworks):
        raise ValueError(
            f"Stacked policies with {hooks.names} cannot stop at target_kl={config.target_kl}, as each would"
            " then count other steps: train them apart, or leave target_kl out."
        )
    by_autograd = hooks.penalizes_features
    return gradients_of(networks, config.minibatch_size, by_autograd=by_autograd), hooks


def critic_half(critic: nn.Module, config: PPOConfig, method: SeededMethod) -> CriticUpdate:
    """Return the critic's half of the update of one policy."""
    optimizer = SingleOptimizer(
        critic_optimizer(critic, config, method.regularizer), captured=config.compile
    )
    passes, hooks = passes_and_hooks(SingleNetwork(critic), optimizer, [method], config)
    return CriticUpdate(passes, optimizer, config, hooks)
