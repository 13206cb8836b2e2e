"""Dense layer with weights and features on the unit sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.initialization import Constant, Distribution
from plasticity.modules.hidden_work import HiddenWork
from plasticity.network_spec import LayerSpec

FLOOR = 1e-8
"""Smallest norm that a weight is divided by, and addend of features, so that these have a direction if all
are 0."""


class HypersphericalLayer(HiddenWork, nn.Linear):
    """Dense layer whose weights, inputs and features have norm 1 (Lee et al., 2025).

    ``features = unit(activation(scale * (W inputs)))``, where each row of W has norm 1, kept by a projection
    after every optimizer step (`on_sphere`), `scale` is learned, and there is no bias. The first layer's
    inputs get one more entry, `shift`, before they are scaled to norm 1: so their own scale is not lost.

    Args:
        inputs: Size of an input.
        width: Number of outputs, or of units (`LayerSpec.keep_units`).
        spec: Activations, gate and noise of the layer.
        is_first: Whether the inputs are those of the network, and not of norm 1.
        shift: Entry that is appended to them.

    Raises:
        ValueError: if the spec has a normalization, which would undo the scales.

    Examples:
        >>> from plasticity.network_spec import LayerSpec
        >>> spec = LayerSpec(activations=(torch.relu,))
        >>> layer = HypersphericalLayer(20, 64, spec, is_first=True, shift=3.0)
        >>> bool((layer(torch.randn(8, 20)).norm(dim=-1) - 1).abs().max() < 1e-3)
        True
    """

    def __init__(
        self, inputs: int, width: int, spec: LayerSpec, is_first: bool, *, shift: float
    ) -> None:
        if spec.normalization is not None:
            raise ValueError(
                "A hyperspherical layer scales its features to norm 1 itself: leave the normalization out."
            )
        units = spec.units(width)
        super().__init__(inputs + is_first, units, bias=False)
        self.shift = shift if is_first else None
        self.sphere_scale = Scale(units)
        self.set_work(spec, (units,))
        with torch.no_grad():
            self.weight.copy_(on_sphere(self.weight))

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of a batch. Shape: (..., inputs) to (..., outputs)."""
        if self.shift is not None:
            features = on_sphere(functional.pad(features, (0, 1), value=self.shift))
        sums = self.sphere_scale(super().forward(features))
        return on_sphere(self.features(sums, -1) + FLOOR)

    def extra_repr(self) -> str:
        """Return the settings of the layer."""
        return f"{super().extra_repr()}, shift={self.shift}, {self.settings}"


class Scale(nn.Module):
    """Learned factor of each unit's sum, at first sqrt(2 / units).

    Args:
        units: Number of units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self._initial = math.sqrt(2 / units)
        self.factor = nn.Parameter(torch.full((units,), self._initial))

    def forward(self, sums: Tensor) -> Tensor:
        """Return the scaled sums. Shape: (..., units), of both."""
        return sums * self.factor

    def initialization(self) -> dict[str, Distribution]:
        """Return the distribution of the initial factors."""
        return {"factor": Constant(self._initial)}


def on_sphere(vectors: Tensor) -> Tensor:
    """Return vectors along the last axis, scaled to norm 1. Shape: any, which stays."""
    return functional.normalize(vectors, dim=-1, eps=FLOOR)
