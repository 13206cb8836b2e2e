"""Plasticity metrics of stacked networks: the numbers of `Tracker.measure` for each, computed at once.

The probe is one forward pass of all networks, the ranks come from one decomposition for all networks and
all layers of the same shape, and the host reads all numbers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from plasticity.metrics.capture import capture
from plasticity.metrics.measuring import Measurement, Opened, host_numbers, require_activations
from plasticity.metrics.registry import Metric, resolved_metrics
from plasticity.preserve_state import preserve_state
from plasticity.stacking.convolution import as_convolutions
from plasticity.stacking.networks import StackedNetworks, require_index


def stacked_features(
    networks: StackedNetworks, probe: Tensor, layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Compute the features of all networks, each on its own probe batch, without disturbing them.

    The networks run in evaluation mode.

    Args:
        networks: Stacked networks, R of them.
        probe: One batch per network. Shape: (R, batch, ...).
        layers: As in `capture`; None takes every activation.

    Returns:
        The features by layer, in the order of the network, with rows as in `unit_matrix`. Shape of each:
        (R, rows, units).

    Raises:
        ValueError: if the probe has another number of batches than there are networks, a layer is unknown
            or does not run, or no activation is found.
    """
    if probe.shape[0] != networks.num_stacked:
        raise ValueError(
            f"the probe of shape {tuple(probe.shape)} has {probe.shape[0]} batches for"
            f" {networks.num_stacked} stacked networks; give one for each, along the first axis"
        )
    template = networks.template

    def of_one(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> dict[str, Tensor]:
        with capture(template, layers, layouts=layouts) as activations:
            functional_call(template, (parameters, buffers), (inputs,))
        return {name: activations.units(name) for name in activations}

    with preserve_state(template):
        # Under vmap the axes of the units are unknown, so the first network runs alone, on two samples.
        first = [
            {name: each[0].clone() for name, each in tensors.items()}
            for tensors in (networks.parameters, networks.buffers)
        ]
        with capture(template, layers) as alone:
            functional_call(template, tuple(first), (probe[0, :2].clone(),))
        layouts = alone.layouts
        # Copies, as a module may write to its buffers or modify its input in place.
        buffers = {name: buffer.clone() for name, buffer in networks.buffers.items()}
        features: dict[str, Tensor] = vmap(of_one)(networks.parameters, buffers, probe.clone())
    require_activations(template, features)
    return features


def finite_networks(features: Mapping[str, Tensor]) -> Tensor:
    """Return which networks have finite features in every layer, bool, on the device. Shape: (R,)."""
    return torch.stack([each.isfinite().flatten(1).all(1) for each in features.values()]).all(0)


def stacked_metrics(
    networks: StackedNetworks,
    features: Mapping[str, Tensor],
    metrics: Iterable[str | Metric],
    *,
    indices: Sequence[int] | None = None,
    previous: Mapping[str, Tensor] | None = None,
    probe: Tensor | None = None,
    before_step: Mapping[str, Tensor] | None = None,
    losses: Sequence[Callable[[nn.Module], Tensor]] | None = None,
) -> list[dict[str, float]]:
    """Measure stacked networks, each with the keys and numbers that a `Tracker` of it alone would give.

    Args:
        networks: Stacked networks, with the gradients of their last backward pass.
        features: Result of `stacked_features`.
        metrics: As in `Tracker`.
        indices: Indices of the networks to measure; None: all. If a rank is measured, networks with features
            that are not finite must be left out.
        previous: Stacked parameters at an earlier time, by name, for "update" metrics, which are left out
            without it. Shape of each: (R, *shape).
        probe: One batch per network, for "pass" and "step" metrics. Shape: (R, batch, ...).
        before_step: Stacked parameters before the latest step, by name, for "step" metrics, which are left
            out without it. Shape of each: (R, *shape).
        losses: Function of each network that returns the loss of the module that it is given on the network's
            own labelled samples, for "loss" metrics.

    Returns:
        The numbers by ``metric/layer``, for each network in `indices`.

    Raises:
        ValueError: if a metric is unknown, needs a probe or losses, or does not return a single number, or
            features are not finite (the message names the layer, and the first such entry by the position in
            `indices`, the row and the unit).
        IndexError: if an index is out of range.
    """
    chosen = list(range(networks.num_stacked)) if indices is None else list(indices)
    for index in chosen:
        require_index(index, networks.num_stacked)
    if not chosen:
        return []
    opened = [
        partial(
            _opened,
            networks,
            index,
            previous,
            probe,
            before_step,
            losses[index] if losses else None,
        )
        for index in chosen
    ]
    taken = {layer: each[chosen] for layer, each in features.items()}
    measurement = Measurement(opened, taken, stacked=True)
    numbers = host_numbers(measurement.values(resolved_metrics(metrics)))
    return [
        {name: of_networks[position] for name, of_networks in numbers.items()}
        for position in range(len(chosen))
    ]


@contextmanager
def _opened(
    networks: StackedNetworks,
    index: int,
    previous: Mapping[str, Tensor] | None,
    probe: Tensor | None,
    before_step: Mapping[str, Tensor] | None,
    loss: Callable[[nn.Module], Tensor] | None,
) -> Iterator[Opened]:
    """Yield one network as a tracker passes it to a metric."""
    previous, before_step = (
        None if kept is None else {name: each[index] for name, each in kept.items()}
        for kept in (previous, before_step)
    )
    run = None if probe is None else lambda network: network(probe[index].clone())
    with networks.loaded(index) as network, as_convolutions(network), preserve_state(network):
        yield Opened(network, previous, run, before_step, loss)
