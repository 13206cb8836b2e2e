"""Work of a hidden layer on its sums, as a `LayerSpec` describes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from plasticity.network_spec import LayerSpec


class HiddenWork:
    """Base of modules that normalize sums, apply activations to them, and add noise."""

    activations: tuple[Callable[[Tensor], Tensor], ...]
    normalization: nn.Module | None
    gate: nn.Module | None
    noise: nn.Module | None

    def set_work(self, spec: LayerSpec, shape: tuple[int, ...]) -> None:
        """Make the parts of the work.

        Args:
            spec: Work on the sums.
            shape: Shape of one example's sums.
        """
        self.activations = spec.activations
        self.normalization = spec.normalization and spec.normalization(shape)
        self.gate = spec.gate and spec.gate(shape)
        self.noise = spec.noise and spec.noise()

    def features(self, sums: Tensor, axis: int) -> Tensor:
        """Return the features. Shape: (…, units, …) to (…, outputs, …).

        Args:
            sums: Sums of the layer.
            axis: Axis of the units.
        """
        if self.normalization is not None:
            sums = self.normalization(sums)
        factors = None if self.gate is None else self.gate(sums)
        features = activated(sums, self.activations, axis, factors)
        return features if self.noise is None else self.noise(features)

    @property
    def settings(self) -> str:
        """Settings of the work that are no modules, for `extra_repr`."""
        # Not repr of a function, whose address differs between equal objects.
        names = [getattr(each, "__name__", None) or repr(each) for each in self.activations]
        return f"activations=({', '.join(names)})"


class HiddenActivation(HiddenWork, nn.Module):
    """Module with the work of a hidden layer, in place of an activation in a model.

    Args:
        spec: Work on the sums.
        shape: Shape of one example's sums.
        axis: Axis of the units, counted from the last.
    """

    def __init__(self, spec: LayerSpec, shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.set_work(spec, shape)

    def forward(self, sums: Tensor) -> Tensor:
        """Return the features. Shape: (…, units, …) to (…, outputs, …)."""
        return self.features(sums, self.axis)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"axis={self.axis}, {self.settings}"


def activated(
    sums: Tensor,
    activations: Sequence[Callable[[Tensor], Tensor]],
    axis: int,
    factors: Tensor | None = None,
) -> Tensor:
    """Return the outputs of activations, next to each other.

    Args:
        sums: Arguments of the activations.
        activations: Functions, entry by entry.
        axis: Axis of the units.
        factors: Factors of each one's outputs, shaped as the sums. None: there are none.
    """
    outputs = [activation(sums) for activation in activations]
    if factors is not None:
        outputs = [each * factors for each in outputs]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, axis)
