"""The rows of the sheet: the layers that a forward pass runs, each with the activation that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.metrics.activations import Activations
from plasticity.metrics.capture import capture
from plasticity.wrappers import named_modules


@dataclass(frozen=True)
class Layer:
    """A weight layer with the activation that follows it, or one of the two alone."""

    name: str
    """Of the weight layer; of the activation where it follows none, or another one of the same layer."""

    owner: str | None
    """Weight layer of that name. None for an activation that has no row of its weights."""

    activation: str | None
    """Function that makes the units, such as "relu". None for output layers, and for a hidden layer that is
    no activation (an LSTM)."""

    captured: str | None
    """Name of the activation in `capture`. None for output layers."""


@dataclass(frozen=True)
class Flow:
    """What one forward pass showed."""

    layers: tuple[Layer, ...]
    """In the order of execution; activations that make the network's output are none of them."""

    def restricted(self, hidden: Sequence[str]) -> Flow:
        """The same with other hidden layers.

        Args:
            hidden: Their names in `capture`. Those that are no activations (an LSTM) come first.
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
    """Run the model once, without gradients, and see its layers.

    Args:
        model: Any module that `capture` can see into.
        arguments: Of its forward.

    Returns:
        Its layers.

    Raises:
        TypeError: as `capture`.
    """
    with torch.no_grad(), capture(model) as activations:
        model(*arguments)
    return Flow(tuple(_layers(activations, _without_rows(model))))


# Their weights are not those of neurons in a row.
_WITHOUT_ROWS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)


def _without_rows(model: nn.Module) -> frozenset[str]:
    """Names of such modules, and of the parameters that they own."""
    names = set()
    for name, module in named_modules(model, remove_duplicate=False):
        if isinstance(module, _WITHOUT_ROWS):
            names |= {name, *(f"{name}.{own}" for own in module._parameters)}
    return frozenset(names)


def _layers(activations: Activations, without_rows: frozenset[str]) -> Iterator[Layer]:
    """Weight layers in order, and activations that have no weight layer of their own."""
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
        place = activations.ran.index(owner)
        captured = first.get(owner)
        if captured is None:
            rows.append((place, Layer(owner, owner, None, None)))
        else:
            function = hidden[captured].function or "unknown"
            rows.append((place, Layer(owner, owner, function, captured)))
    # An activation stands behind the layers that ran before it: a layer at place 0 is one that has run at 1.
    rows.sort(key=lambda row: row[0] + (0.5 if row[1].owner is not None else 0))
    return (layer for _, layer in rows)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)
