"""Recording of the inputs of a model's layers in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


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
