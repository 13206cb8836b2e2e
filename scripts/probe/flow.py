"""Rows of the sheet: layers that a forward pass executes, each with the activation that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from plasticity.metrics.activations import Activations
from plasticity.metrics.capture import capture
from plasticity.wrappers import named_modules


@dataclass(frozen=True)
class Layer:
    """Weight layer with the activation that follows it, or one of the two alone."""

    name: str
    """Name of the weight layer; or of the activation, if it is not the first one after a single layer."""

    owner: str | None
    """Name of the weight layer. None for an activation that has a row without weights."""

    activation: str | None
    """Activation function of the units, such as "relu". None for output layers, and for hidden layers that
    are not activations (an LSTM)."""

    captured: str | None
    """Name of the activation in `capture`. None for output layers."""


@dataclass(frozen=True)
class Flow:
    """Layers seen in one forward pass."""

    layers: tuple[Layer, ...]
    """Layers in the order of execution, without activations that compute the network's output."""

    def restricted(self, hidden: Sequence[str]) -> Flow:
        """Return the flow with other hidden layers.

        Args:
            hidden: Names of the hidden layers in `capture`. Those that are not activations (an LSTM) are
                put first.
        """
        activations = [layer.captured for layer in self.layers if layer.captured is not None]
        layers = [Layer(name, None, None, name) for name in hidden if name not in activations]
        for layer in self.layers:
            if layer.captured is None or layer.captured in hidden:
                layers.append(layer)
            elif layer.owner is not None:
                layers.append(replace(layer, activation=None, captured=None))
        return replace(self, layers=tuple(layers))


def trace(model: nn.Module, arguments: tuple[Any, ...]) -> Flow:
    """Run the model once, without gradients, and find its layers.

    Args:
        model: Any module that `capture` supports.
        arguments: Arguments of its forward.

    Returns:
        The layers of the model.

    Raises:
        TypeError: as for `capture`.
    """
    with torch.no_grad(), capture(model) as activations:
        model(*arguments)
    return Flow(tuple(_layers(activations, _without_rows(model))))


# Modules whose weights do not have a row per neuron.
_WITHOUT_ROWS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)


def _without_rows(model: nn.Module) -> frozenset[str]:
    """Return the names of modules without a row per neuron, and of the parameters that they own."""
    names = set()
    for name, module in named_modules(model, remove_duplicate=False):
        if isinstance(module, _WITHOUT_ROWS):
            names |= {name, *(f"{name}.{own}" for own in module._parameters)}
    return frozenset(names)


def _layers(activations: Activations, without_rows: frozenset[str]) -> Iterator[Layer]:
    """Yield weight layers in the order of execution, and activations without a weight layer."""
    hidden = {name: each for name, each in activations.origins.items() if not each.is_output}
    # The first activation of a layer's own units shares its row.
    first: dict[str, str] = {}
    for name, origin in hidden.items():
        if len(origin.layers) == 1 and not origin.layers & without_rows:
            first.setdefault(next(iter(origin.layers)), name)
    shared = set(first.values())
    rows: list[tuple[int, Layer]] = []
    for name, origin in hidden.items():
        if name not in shared:
            rows.append((origin.position, Layer(name, None, origin.function or "unknown", name)))
    for owner in (each for each in dict.fromkeys(activations.ran) if each not in without_rows):
        position = activations.ran.index(owner)
        captured = first.get(owner)
        if captured is None:
            rows.append((position, Layer(owner, owner, None, None)))
        else:
            function = hidden[captured].function or "unknown"
            rows.append((position, Layer(owner, owner, function, captured)))
    # An activation comes after the layers that ran before it: a layer at position 0 has run at position 1.
    rows.sort(key=lambda row: row[0] + (0.5 if row[1].owner is not None else 0))
    return (layer for _, layer in rows)
