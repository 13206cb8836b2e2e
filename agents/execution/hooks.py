"""Hooks of mitigations on the networks of a learner, one or R stacked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.initialization import initialization_of
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.hooks import Hooks
from plasticity.mitigations.optimizer_views import OptimizerView, OrdinaryView, StackedView
from plasticity.mitigations.stacked_settings import acts_on_steps
from plasticity.mitigations.trained import Initial, Trained
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


def make_hooks(
    networks: SingleNetwork | StackedNetworks,
    optimizer: SingleOptimizer | StackedOptimizer,
    methods: Sequence[SeededMethod],
) -> Hooks | None:
    """Return the hooks of these methods, or None if none of their mitigations acts on steps.

    Args:
        networks: The network, or the stacked ones.
        optimizer: Their optimizer.
        methods: Method of each network.

    Raises:
        ValueError: if methods of stacked networks cannot be stacked.
    """
    if not any(acts_on_steps(each) for method in methods for each in method.mitigations):
        return None
    trained = Trained(
        parameters=networks.parameters,
        buffers=networks.buffers,
        module=networks.template,
        optimizer=_view(optimizer, networks.parameters),
        initialization=_initialization(networks),
        ordinary=partial(networks.network, 0),
        lead=(networks.num_stacked,) if isinstance(networks, StackedNetworks) else (),
    )
    return Hooks(
        [each.mitigations for each in methods], trained, [each.noise_seed for each in methods]
    )


def _view(
    optimizer: SingleOptimizer | StackedOptimizer, parameters: Mapping[str, Tensor]
) -> OptimizerView:
    if isinstance(optimizer, StackedOptimizer):
        return StackedView(optimizer, parameters)
    return OrdinaryView(optimizer.ordinary, parameters)


def _initialization(networks: SingleNetwork | StackedNetworks) -> dict[str, Initial]:
    """Return the distribution of each parameter: measured ones differ between stacked networks."""
    count = networks.num_stacked if isinstance(networks, StackedNetworks) else 1
    every = [initialization_of(networks.network(index)) for index in range(count)]
    found = {name: tuple([own[name] for own in every]) for name in every[0]}
    return {
        name: each[0] if all(one == each[0] for one in each) else each
        for name, each in found.items()
    }
