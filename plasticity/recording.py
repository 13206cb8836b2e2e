"""Recording of what a model's layers get, or sum up, in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

SUMMING: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose `forward`, not that of a subclass, is a weighted sum of the inputs."""


def record_inputs(
    model: nn.Module, layers: Sequence[str], found: dict[str, Tensor]
) -> list[RemovableHandle]:
    """Record the first input of these layers at each call, until the handles are removed.

    Args:
        model: The model.
        layers: Names of its modules.
        found: Dictionary for the inputs, by layer; of a layer that runs twice, the last one.
    """

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def record(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            found[name] = inputs[0]

        return record

    return [model.get_submodule(name).register_forward_pre_hook(recorder(name)) for name in layers]


@contextmanager
def recorded_inputs(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the inputs of these layers inside the block; `record_inputs` describes them."""
    found: dict[str, Tensor] = {}
    handles = record_inputs(model, layers, found)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_sums(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record what the units of these layers sum up inside the block, before a normalization or activation.

    They are computed twice, the second time by the layer itself, which may apply its activation at once.

    Args:
        model: The model.
        layers: Names of linear layers and convolutions.

    Raises:
        ValueError: if a layer is neither.
    """
    found: dict[str, Tensor] = {}

    def recorder(name: str, kind: type[nn.Module]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            found[name] = kind.forward(module, inputs[0])

        return record

    kinds = {name: _summing_kind(name, model.get_submodule(name)) for name in layers}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(recorder(name, kind))
        for name, kind in kinds.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _summing_kind(name: str, layer: nn.Module) -> type[nn.Module]:
    for kind in SUMMING:
        if isinstance(layer, kind):
            return kind
    raise ValueError(
        f"{name!r} must be a linear layer or a convolution, not {type(layer).__name__}."
    )
