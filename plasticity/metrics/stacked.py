"""Plasticity metrics of stacked networks: what `Tracker.measure` gives of each, all at once.

The probe is one forward pass of all replicas, the ranks come from one decomposition for all replicas
and all layers of a shape, and the host reads all numbers at once.
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
    replicas: StackedNetworks, probe: Tensor, layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Features of all replicas on a probe batch of each, in evaluation mode; disturbs nothing.

    Args:
        replicas: The networks.
        probe: A batch for each replica. Shape: (R, batch, ...).
        layers: As in `capture`; None takes every activation.

    Returns:
        By layer, in the order of the network. Shape of each: (R, rows, units), the rows as in
        `unit_matrix`.

    Raises:
        ValueError: if the probe has another number of replicas, a layer is unknown or does not run, or
            no activation is found.
    """
    if probe.shape[0] != replicas.num_stacked:
        raise ValueError(
            f"The probe of shape {tuple(probe.shape)} has {probe.shape[0]} batches for"
            f" {replicas.num_stacked} replicas: give one for each, first axis."
        )
    template = replicas.template

    def of_one(
        parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> dict[str, Tensor]:
        with capture(template, layers, layouts=layouts) as activations:
            functional_call(template, (parameters, buffers), (inputs,))
        return {name: activations.units(name) for name in activations}

    with preserve_state(template, {probe.device: None}):
        # Under vmap nothing tells where the units lie, so the first replica runs alone, on two samples.
        first = [
            {name: each[0].clone() for name, each in tensors.items()}
            for tensors in (replicas.parameters, replicas.buffers)
        ]
        with capture(template, layers) as alone:
            functional_call(template, tuple(first), (probe[0, :2].clone(),))
        layouts = alone.layouts
        # Copies, as a module may write to its buffers or work in place on its input.
        buffers = {name: buffer.clone() for name, buffer in replicas.buffers.items()}
        features: dict[str, Tensor] = vmap(of_one)(replicas.parameters, buffers, probe.clone())
    if not features:
        raise ValueError(
            f"no activation was seen in {type(template).__name__}, so there are no features to measure;"
            " name layers, as in layers=['fc1']"
        )
    return features


def finite_networks(features: Mapping[str, Tensor]) -> Tensor:
    """Which replicas have finite features in every layer, bool, on the device. Shape: (R,)."""
    return torch.stack([each.isfinite().flatten(1).all(1) for each in features.values()]).all(0)


def stacked_metrics(
    replicas: StackedNetworks,
    features: Mapping[str, Tensor],
    metrics: Iterable[str | Metric],
    *,
    indices: Sequence[int] | None = None,
    previous: Mapping[str, Tensor] | None = None,
) -> list[dict[str, float]]:
    """Measure replicas, each as a `Tracker` measures its network alone, key by key.

    Args:
        replicas: The networks, with the gradients of their last backward pass.
        features: Of `stacked_features`.
        metrics: As in `Tracker`.
        indices: Which replicas to measure; None: all. Those with features that are not finite must be
            left out where a rank is measured.
        previous: The stacked parameters at an earlier time, by name, for "update" metrics, which are
            left out without it. Shape of each: (R, *shape).

    Returns:
        For each replica asked for, its numbers by ``metric/layer``.

    Raises:
        ValueError: if a metric is unknown or gives no single number, or features are not finite (the
            message names the layer, and the place among the replicas asked for first).
        IndexError: if there is no such replica.
    """
    chosen = list(range(replicas.num_stacked)) if indices is None else list(indices)
    for index in chosen:
        require_index(index, replicas.num_stacked)
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
            found = _of_networks(metric, replicas, chosen, previous)
        add_values(values, metric.name, found)
    return _read(values, len(chosen))


def _rank_summaries(features: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`rank_summary` of each layer, (R,), from one batched decomposition for all layers of a shape."""
    groups: dict[object, list[str]] = {}
    for layer, each in features.items():
        groups.setdefault((each.shape, each.dtype), []).append(layer)
    summaries: dict[str, dict[str, Tensor]] = {}
    for layers in groups.values():
        try:
            stacked = ranks.rank_summary(torch.stack([features[layer] for layer in layers]))
        except ValueError as error:
            raise ValueError(f"layers {layers}, replicas asked for: {error}") from error
        for position, layer in enumerate(layers):
            summaries[layer] = {name: values[position] for name, values in stacked.items()}
    return summaries


def _of_features(metric: Metric, layer: str, features: Tensor) -> Tensor:
    """A number for each replica: at once by our own functions, one by one by others."""
    if METRICS.get(metric.name) is metric:
        at_once: Tensor = metric.function(features)
        return at_once
    return torch.stack(
        [require_scalar(metric.name, layer, metric.function(each)) for each in features]
    )


def _of_networks(
    metric: Metric,
    replicas: StackedNetworks,
    indices: Sequence[int],
    previous: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    if metric.kind == "update" and previous is None:
        return {}
    found: dict[str, list[Tensor]] = {}
    for index in indices:
        with _measured(replicas, index) as network:
            if metric.kind == "model":
                value = metric.function(network)
            else:
                assert previous is not None
                value = metric.function(network, {n: each[index] for n, each in previous.items()})
        for layer, number in (value if isinstance(value, Mapping) else {"": value}).items():
            found.setdefault(layer, []).append(require_scalar(metric.name, layer, number))
    return {layer: torch.stack(numbers) for layer, numbers in found.items()}


@contextmanager
def _measured(replicas: StackedNetworks, index: int) -> Iterator[nn.Module]:
    """One network as a tracker shows it to a metric, which may need gradients of its own."""
    device = next(iter(replicas.parameters.values())).device
    with (
        replicas.loaded(index) as network,
        preserve_state(network, {device: None}),
        torch.enable_grad(),
    ):
        yield network


def _read(values: Mapping[str, Tensor], count: int) -> list[dict[str, float]]:
    """All numbers in one transfer to the host. Shape of each value: (count,)."""
    if not values:
        return [{} for _ in range(count)]
    device = next(iter(values.values())).device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    stacked = torch.stack([value.detach().to(device, dtype) for value in values.values()], dim=1)
    return [dict(zip(values, numbers, strict=True)) for numbers in stacked.tolist()]
