"""Measurement of all metrics of a network from its features, including a network that has diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.metrics import ranks
from plasticity.metrics.registry import RANK_METRICS, Metric, add_values, is_rank
from plasticity.wrappers import named_parameters

__all__ = ["Measurement", "host_numbers", "is_finite", "require_scalar"]


class Measurement:
    """Measurement of one network on one batch.

    Args:
        model: The network, in evaluation mode.
        features: Matrices of shape (rows, units) by layer, in the order of the network; None for a layer
            whose features cannot be computed in a diverged network.
        previous: Parameters at the previous boundary, by name.
        tolerant: Whether a number that cannot be computed in a diverged network is NaN, rather than an error.
    """

    def __init__(
        self,
        model: nn.Module,
        features: Mapping[str, Tensor | None],
        previous: Mapping[str, Tensor] | None,
        *,
        tolerant: bool,
    ) -> None:
        self._model = model
        self._features = features
        self._previous = previous
        self._tolerant = tolerant
        self._finite: bool | None = None

    def values(
        self, metrics: Sequence[Metric], known_layers: MutableMapping[str, tuple[str, ...]]
    ) -> dict[str, Tensor]:
        """Compute the metrics.

        Args:
            metrics: Metrics in the order of the row.
            known_layers: Layers that each metric of the model had in earlier measurements, by the metric's
                name; updated here. A metric that cannot be computed gets NaN for these.

        Returns:
            Scalars by `metric_key`, on their devices.

        Raises:
            ValueError: if a metric does not return a single number, two layers have the same key, or, unless
                tolerant, features of a rank metric are not finite.
        """
        summaries: dict[str, Mapping[str, Tensor]] = {}
        if any(map(is_rank, metrics)):
            summaries = self._rank_summaries()
        values: dict[str, Tensor] = {}
        for metric in metrics:
            if is_rank(metric):
                found = {layer: summaries[layer][metric.name] for layer in self._features}
            elif metric.kind == "features":
                found = {layer: self._of_layer(metric.function, layer) for layer in self._features}
            else:
                found = self._of_model(metric, known_layers.get(metric.name, ("",)))
                known_layers[metric.name] = tuple(found) or ("",)
            add_values(
                values,
                metric.name,
                {name: require_scalar(metric.name, name, value) for name, value in found.items()},
            )
        return values

    def finite(self) -> bool:
        """Return whether the parameters and the features are finite; synchronizes with the device once."""
        if self._finite is None:
            self._finite = None not in self._features.values() and is_finite(
                self._model, [each for each in self._features.values() if each is not None]
            )
        return self._finite

    def _rank_summaries(self) -> dict[str, Mapping[str, Tensor]]:
        """Compute `rank_summary` of each layer, with one batched decomposition for all layers of a shape."""
        summaries: dict[str, Mapping[str, Tensor]] = {}
        groups: dict[Any, list[str]] = {}
        for layer, matrix in self._features.items():
            if matrix is None:
                summaries[layer] = _undefined_ranks()
            else:
                groups.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(layer)
        for layers in groups.values():
            try:
                stacked = ranks.rank_summary(
                    torch.stack([_present(self._features[layer]) for layer in layers])
                )
            except (TypeError, ValueError):
                # Measuring them one by one raises an error that names the layer and the entry.
                alone = {layer: self._ranks_of_layer(layer) for layer in layers}
                if not self._tolerant:
                    raise
                summaries.update(alone)
                continue
            for position, layer in enumerate(layers):
                summaries[layer] = {name: values[position] for name, values in stacked.items()}
        return summaries

    def _ranks_of_layer(self, layer: str) -> Mapping[str, Tensor]:
        found = self._of_layer(ranks.rank_summary, layer)
        return found if isinstance(found, Mapping) else _undefined_ranks()

    def _of_layer(self, function: Callable[[Tensor], Any], layer: str) -> Any:
        features = self._features[layer]
        if features is None:
            return _NAN
        try:
            return function(features)
        except Exception as error:
            if self._tolerant and not _all_finite(features):
                return _NAN
            if type(error) in (TypeError, ValueError):
                raise type(error)(f"layer {layer!r}: {error}") from error
            raise

    def _of_model(self, metric: Metric, known_layers: Iterable[str]) -> dict[str, Any]:
        if metric.kind == "update" and self._previous is None:
            return {}
        arguments = (self._model,) if metric.kind == "model" else (self._model, self._previous)
        try:
            # Metrics of the model may compute gradients themselves (a neural tangent kernel).
            with torch.enable_grad():
                value = metric.function(*arguments)
        except Exception:
            if self._tolerant and not self.finite():
                return dict.fromkeys(known_layers, _NAN)
            raise
        return dict(value) if isinstance(value, Mapping) else {"": value}


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


def host_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the values as numbers, read in one transfer to the host."""
    if not values:
        return {}
    # NaN for values that could not be computed is on the CPU: the other values determine the device.
    devices = [value.device for value in values.values()]
    device = next((each for each in devices if each.type != "cpu"), devices[0])
    dtype = torch.float32 if device.type == "mps" else torch.float64
    stacked = torch.stack([value.detach().to(device, dtype) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


_NAN = torch.tensor(torch.nan)


def _undefined_ranks() -> dict[str, Tensor]:
    return dict.fromkeys(RANK_METRICS, _NAN)


def _present(features: Tensor | None) -> Tensor:
    assert features is not None
    return features


def _all_finite(features: Tensor) -> bool:
    return bool(_wide(features).isfinite().all())


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in a dtype that supports comparisons, which one-byte floats do not."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize == 1
    return tensor.float() if narrow else tensor
