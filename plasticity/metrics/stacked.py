"""Plasticity metrics of stacked networks: the numbers of `Tracker.measure` for each, computed at once.

The probe is one forward pass of all networks, the ranks come from one decomposition for all networks and
all layers of the same shape, and the host reads all numbers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from plasticity.metrics import ranks
from plasticity.metrics.capture import capture
from plasticity.metrics.measuring import require_scalar
from plasticity.metrics.registry import METRICS, Metric, add_values, is_rank, resolved_metrics
from plasticity.preserve_state import preserve_state
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

    with preserve_state(template, {probe.device: None}):
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
    if not features:
        raise ValueError(
            f"no activation was seen in {type(template).__name__}, so there are no features to measure;"
            " name layers, as in layers=['fc1']"
        )
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

    Returns:
        The numbers by ``metric/layer``, for each network in `indices`.

    Raises:
        ValueError: if a metric is unknown or does not return a single number, or features are not finite
            (the message names the layers of one shape, and the first such entry by the layer's position
            among them, the position in `indices`, the row and the unit).
        IndexError: if an index is out of range.
    """
    chosen = list(range(networks.num_stacked)) if indices is None else list(indices)
    for index in chosen:
        require_index(index, networks.num_stacked)
    if not chosen:
        return []
    taken = {layer: each[chosen] for layer, each in features.items()}
    resolved = resolved_metrics(metrics)
    summaries = _rank_summaries(taken) if any(map(is_rank, resolved)) else {}
    values: dict[str, Tensor] = {}
    for metric in resolved:
        if is_rank(metric):
            found = {layer: summaries[layer][metric.name] for layer in taken}
        elif metric.kind == "features":
            found = {layer: _of_features(metric, layer, each) for layer, each in taken.items()}
        else:
            found = _of_networks(metric, networks, chosen, previous)
        add_values(values, metric.name, found)
    return _read(values, len(chosen))


def _rank_summaries(features: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Compute `rank_summary` of each layer, (R,), with one batched decomposition per layer shape."""
    groups: dict[object, list[str]] = {}
    for layer, each in features.items():
        groups.setdefault((each.shape, each.dtype), []).append(layer)
    summaries: dict[str, dict[str, Tensor]] = {}
    for layers in groups.values():
        try:
            stacked = ranks.rank_summary(torch.stack([features[layer] for layer in layers]))
        except ValueError as error:
            raise ValueError(f"layers {layers} of the stacked networks: {error}") from error
        for position, layer in enumerate(layers):
            summaries[layer] = {name: values[position] for name, values in stacked.items()}
    return summaries


def _of_features(metric: Metric, layer: str, features: Tensor) -> Tensor:
    """Return one number per network, at once for built-in metrics, one by one for custom ones."""
    if METRICS.get(metric.name) is metric:
        at_once: Tensor = metric.function(features)
        return at_once
    return torch.stack(
        [require_scalar(metric.name, layer, metric.function(each)) for each in features]
    )


def _of_networks(
    metric: Metric,
    networks: StackedNetworks,
    indices: Sequence[int],
    previous: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    if metric.kind == "update" and previous is None:
        return {}
    found: dict[str, list[Tensor]] = {}
    for index in indices:
        with _measured(networks, index) as network:
            if metric.kind == "model":
                value = metric.function(network)
            else:
                assert previous is not None
                value = metric.function(network, {n: each[index] for n, each in previous.items()})
        for layer, number in (value if isinstance(value, Mapping) else {"": value}).items():
            found.setdefault(layer, []).append(require_scalar(metric.name, layer, number))
    return {layer: torch.stack(numbers) for layer, numbers in found.items()}


@contextmanager
def _measured(networks: StackedNetworks, index: int) -> Iterator[nn.Module]:
    """Yield one network as a tracker passes it to a metric, which may compute gradients itself."""
    device = next(iter(networks.parameters.values())).device
    with (
        networks.loaded(index) as network,
        preserve_state(network, {device: None}),
        torch.enable_grad(),
    ):
        yield network


def _read(values: Mapping[str, Tensor], count: int) -> list[dict[str, float]]:
    """Read all numbers in one transfer to the host. Shape of each value: (count,)."""
    if not values:
        return [{} for _ in range(count)]
    device = next(iter(values.values())).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    stacked = torch.stack([value.detach().to(device, dtype) for value in values.values()], dim=1)
    return [dict(zip(values, numbers, strict=True)) for numbers in stacked.tolist()]
