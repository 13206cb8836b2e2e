"""Weights with fixed entries: the base of mitigations that choose which ones, and their values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from plasticity.mitigations.base import Kind, Mitigation
from plasticity.mitigations.context import Context
from plasticity.seeds import child_seed

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with weights of which entries are fixed; their weights have shape (units, …)."""

MASK, VALUES = "weight_is_fixed", "weight_fixed"
"""Names of the buffers of a layer: which entries are fixed, and the values of these; others are 0."""


class FixedWeights(Mitigation):
    """Fixed entries in the weights of all linear layers and convolutions, the last one included.

    Which entries, and at which values, is drawn from the seed of the anchors: networks with the same anchors
    have the same. Both are persistent buffers of each layer, part of every copy and checkpoint. Fixed entries
    get no gradient, and are restored after every step, bit for bit, whatever decay, momentum and resets of
    units do.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the fixed weights"
    comes_last: ClassVar[bool] = True

    @abstractmethod
    def fixed(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return which entries of a weight are fixed, as bool, and the values that they get.

        Args:
            weight: Initial weight, on the CPU. Shape of all three: (units, …).
            generator: CPU generator of this layer.
        """

    @torch.no_grad()
    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Choose entries, and fix them.

        Raises:
            ValueError: if there is no linear layer or convolution, or a weight is computed from other
                parameters (weight normalization).
        """
        fixed: set[Tensor] = set()
        for path, layer in network.named_modules():
            if not isinstance(layer, LAYERS) or layer.weight in fixed:  # in: tied to an earlier one
                continue
            weight = layer._parameters.get("weight")
            if weight is None:
                raise ValueError(
                    f"The weight of {path!r} is computed from other parameters, so that {self.name} cannot"
                    " fix its entries: leave one of the two out."
                )
            generator = torch.Generator().manual_seed(child_seed(seed, f"{self.name}/{path}"))
            is_fixed, values = self.fixed(weight.cpu(), generator)
            is_fixed, values = is_fixed.to(weight.device), values.to(weight)
            layer.register_buffer(MASK, is_fixed)
            layer.register_buffer(VALUES, torch.where(is_fixed, values, 0))
            weight.copy_(torch.where(is_fixed, values, weight))
            fixed.add(weight)
        if not fixed:
            raise ValueError(
                f"{type(network).__name__} has no linear layer and no convolution: {self.name} has nothing"
                " to fix."
            )

    def before_step(self, context: Context) -> None:
        """Set the gradients of fixed entries to 0."""
        gradients = context.gradients
        for name, is_fixed, _ in _fixed_weights(context):
            if name in gradients:
                gradients[name].masked_fill_(is_fixed, 0.0)

    def after_step(self, context: Context) -> None:
        """Restore the fixed entries."""
        for name, is_fixed, values in _fixed_weights(context):
            weight = context.parameters[name]
            weight.copy_(torch.where(is_fixed, values, weight))

    def boundary(self, context: Context) -> None:
        """Restore the fixed entries."""
        self.after_step(context)


def _fixed_weights(context: Context) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the mask and the values of each weight. Shape of both tensors: (..., units, …)."""
    for buffer, is_fixed in context.buffers.items():
        path, _, kind = buffer.rpartition(".")
        if kind == MASK:
            prefix = f"{path}." if path else ""
            yield f"{prefix}weight", is_fixed, context.buffers[f"{prefix}{VALUES}"]
