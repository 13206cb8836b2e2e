"""Measurement of all metrics from features: of one network, also a diverged one, or of stacked ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.metrics import ranks
from plasticity.metrics.registry import METRICS, RANK_METRICS, Metric, add_values, is_rank
from plasticity.precision import accumulator
from plasticity.wrappers import named_parameters

__all__ = [
    "GIVE_LOSS",
    "Measurement",
    "Opened",
    "host_numbers",
    "is_finite",
    "require_activations",
    "require_scalar",
]

GIVE_LOSS = "give loss=lambda model: cross_entropy(model(inputs), labels)"


@dataclass(frozen=True)
class Opened:
    """Network that is open for a metric."""

    model: nn.Module
    """Network in evaluation mode."""

    previous: Mapping[str, Tensor] | None
    """Parameters at the previous boundary by name. None: there was none."""

    run: Callable[[nn.Module], Any] | None
    """Function that runs the network on its probe batch. None: the batch is not known."""

    before_step: Mapping[str, Tensor] | None = None
    """Parameters before the latest optimizer step by name. None: they were not kept."""

    loss: Callable[[nn.Module], Tensor] | None = None
    """Function that returns the network's loss on labelled samples. None: there are no labels."""


class Measurement:
    """Measurement of one network on one batch, or of R stacked networks on a batch each.

    Args:
        networks: The networks. Stacked ones share a module, so each is open only while it is measured.
        features: Matrices by layer, in the order of the network; None for a layer whose features cannot be
            computed in a diverged network. Shape of each: (rows, units), or (R, rows, units) if stacked.
        stacked: Whether the numbers have a leading dimension of the networks.
        tolerant: Whether a number that cannot be computed in a diverged network is NaN, rather than an error;
            for a single network only.
    """

    def __init__(
        self,
        networks: Sequence[Callable[[], AbstractContextManager[Opened]]],
        features: Mapping[str, Tensor | None],
        *,
        stacked: bool = False,
        tolerant: bool = False,
    ) -> None:
        self._networks = networks
        self._features = features
        self._stacked = stacked
        self._tolerant = tolerant

    def values(
        self,
        metrics: Sequence[Metric],
        known_layers: MutableMapping[str, tuple[str, ...]] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the metrics.

        Args:
            metrics: Metrics in the order of the row.
            known_layers: Layers that each metric of the model had in earlier measurements, by the metric's
                name; updated here. A metric that cannot be computed gets NaN for these.

        Returns:
            The numbers by `metric_key`, on their devices. Shape of each: (), or (R,) if stacked.

        Raises:
            ValueError: if a metric does not return a single number, two layers have the same key, or, unless
                tolerant, features of a rank metric are not finite.
        """
        known = {} if known_layers is None else known_layers
        summaries: dict[str, Mapping[str, Tensor]] = {}
        if any(map(is_rank, metrics)):
            summaries = self._rank_summaries()
        values: dict[str, Tensor] = {}
        for metric in metrics:
            if is_rank(metric):
                found = {layer: summaries[layer][metric.name] for layer in self._features}
            elif metric.kind == "features":
                found = {layer: self._of_layer(metric, layer) for layer in self._features}
            else:
                found = self._of_models(metric, known.get(metric.name, ("",)))
                known[metric.name] = tuple(found) or ("",)
            add_values(values, metric.name, found)
        return values

    def _rank_summaries(self) -> dict[str, Mapping[str, Tensor]]:
        """Compute `rank_summary` of each layer, with one batched decomposition for all layers of a shape."""
        summaries: dict[str, Mapping[str, Tensor]] = {}
        groups: dict[Any, dict[str, Tensor]] = {}
        for layer, matrix in self._features.items():
            if matrix is None:
                summaries[layer] = _undefined_ranks()
            else:
                key = (matrix.shape, matrix.dtype, matrix.device)
                groups.setdefault(key, {})[layer] = matrix
        for matrices in groups.values():
            try:
                together = ranks.rank_summary(torch.stack(list(matrices.values())))
            except (TypeError, ValueError):
                # Measuring them one by one raises an error that names the layer and the entry.
                for layer, matrix in matrices.items():
                    found = self._computed(ranks.rank_summary, layer, matrix)
                    summaries[layer] = _undefined_ranks() if found is _NAN else found
                if not self._tolerant:
                    raise
                continue
            for position, layer in enumerate(matrices):
                summaries[layer] = {name: values[position] for name, values in together.items()}
        return summaries

    def _of_layer(self, metric: Metric, layer: str) -> Tensor:
        """Return a number per network: at once for a built-in metric, one by one for a custom one."""
        features = self._features[layer]
        if features is None:
            return _NAN
        if METRICS.get(metric.name) is metric:
            at_once: Tensor = self._computed(metric.function, layer, features)
            return at_once
        found = [
            self._computed(metric.function, layer, each)
            for each in (features if self._stacked else [features])
        ]
        return self._joined([require_scalar(metric.name, layer, each) for each in found])

    def _computed(self, function: Callable[[Tensor], Any], layer: str, features: Tensor) -> Any:
        try:
            return function(features)
        except Exception as error:
            if self._tolerant and not bool(_wide(features).isfinite().all()):
                return _NAN
            if type(error) in (TypeError, ValueError):
                raise type(error)(f"layer {layer!r}: {error}") from error
            raise

    def _of_models(self, metric: Metric, known_layers: Iterable[str]) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for opened in self._networks:
            with opened() as network:
                if (metric.kind == "update" and network.previous is None) or (
                    metric.kind == "step" and network.before_step is None
                ):
                    return {}
                arguments = _arguments(metric, network)
                try:
                    # Metrics of the model may compute gradients themselves (a neural tangent kernel).
                    with torch.enable_grad():
                        value = metric.function(*arguments)
                except Exception:
                    if self._tolerant and not self.finite:
                        return dict.fromkeys(known_layers, _NAN)
                    raise
            for layer, number in (value if isinstance(value, Mapping) else {"": value}).items():
                found.setdefault(layer, []).append(require_scalar(metric.name, layer, number))
        return {layer: self._joined(numbers) for layer, numbers in found.items()}

    def _joined(self, numbers: list[Tensor]) -> Tensor:
        return torch.stack(numbers) if self._stacked else numbers[0]

    @cached_property
    def finite(self) -> bool:
        """Whether parameters and features are finite; the first reading synchronizes with the device."""
        features = [each for each in self._features.values() if each is not None]
        if len(features) < len(self._features):
            return False
        for opened in self._networks:
            with opened() as network:
                if not is_finite(network.model, features):
                    return False
        return True


def _arguments(metric: Metric, network: Opened) -> tuple[Any, ...]:
    if metric.kind == "model":
        return (network.model,)
    if metric.kind == "update":
        return network.model, network.previous
    if metric.kind == "loss":
        if network.loss is None:
            raise ValueError(
                f"metric {metric.name!r} needs the loss on labelled samples: {GIVE_LOSS}"
            )
        return network.model, network.loss
    if network.run is None:
        raise ValueError(f"metric {metric.name!r} needs a probe batch: give probe=")
    if metric.kind == "step":
        return network.model, network.before_step, network.run
    return network.model, network.run


def require_activations(model: nn.Module, features: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless there are features to measure."""
    if not features:
        raise ValueError(
            f"no activation was seen in {type(model).__name__}, so there are no features to measure; name"
            " layers, as in layers=['fc1']"
        )


def require_scalar(metric: str, layer: str, value: object) -> Tensor:
    """Return the result of a metric, if it is a single number.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, Tensor) or value.ndim > 0:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        name = f"{metric}/{layer}" if layer else metric
        raise ValueError(
            f"metric {name!r} returned a {type(value).__name__}{shape}, expected one number; "
            "return a tensor of shape ()"
        )
    return value


def is_finite(model: nn.Module, features: Iterable[Tensor]) -> bool:
    """Return whether a network's parameters and features are finite.

    Infinity is allowed in frozen parameters, as masks contain it. The host reads once per device.
    """
    parameters = [
        each.isfinite() if each.requires_grad else ~each.isnan()
        for each in (_wide(parameter) for _, parameter in named_parameters(model))
    ]
    flags: dict[torch.device, list[Tensor]] = {}
    for marked in (*parameters, *(_wide(each).isfinite() for each in features)):
        flags.setdefault(marked.device, []).append(marked.all())
    return all(all(torch.stack(found).tolist()) for found in flags.values())


def host_numbers(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the values as numbers, or as lists of them along leading dimensions, read in one transfer."""
    if not values:
        return {}
    # NaN for values that could not be computed is on the CPU: the other values determine the device.
    devices = [value.device for value in values.values()]
    device = next((each for each in devices if each.type != "cpu"), devices[0])
    dtype = accumulator(device)
    stacked = torch.stack([value.detach().to(device, dtype) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


_NAN = torch.tensor(torch.nan)


def _undefined_ranks() -> dict[str, Tensor]:
    return dict.fromkeys(RANK_METRICS, _NAN)


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in a dtype that supports comparisons, which one-byte floats do not."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize == 1
    return tensor.float() if narrow else tensor
