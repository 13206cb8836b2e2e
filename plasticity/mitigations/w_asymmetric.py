"""Asymmetric networks by fixed weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.checks import require_number
from plasticity.mitigations.base import mitigation
from plasticity.mitigations.fixed_weights import FixedWeights


@mitigation("w-asymmetric")
@dataclass(frozen=True, kw_only=True)
class WAsymmetric(FixedWeights):
    """Random entries of each unit's incoming weights, fixed at random values (W-asymmetry, Lim et al., 2024).

    Each unit has as many fixed entries as the others of its layer, at positions of its own: no two units can
    be exchanged any longer. Their values are normal, with a standard deviation that does not fall with the
    fan-in: a layer of 512 inputs with 64 of them fixed has a variance of 64 from them alone, so that a
    normalization of the sums (`layer-norm+w-asymmetric`) is a part of the published recipe.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    share: float = 0.125
    """Share of each unit's incoming weights that is fixed, above 0 and below 1, rounded to at least one
    weight, and to one less than all."""

    kappa: float = 1.0
    """Standard deviation of the fixed weights, at least 0. Published: 1 to 1/4 in MLPs, 3 in a ResNet-20."""

    def __post_init__(self) -> None:
        if not 0 < require_number("share", self.share, minimum=0.0) < 1:
            raise ValueError(f"share must be above 0 and below 1, not {self.share!r}.")
        require_number("kappa", self.kappa, minimum=0.0)

    def fixed(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return equally many entries of each unit, drawn without replacement, and normal values."""
        units, inputs = weight.flatten(1).shape
        count = min(max(round(self.share * inputs), 1), inputs - 1)
        chosen = torch.rand(units, inputs, generator=generator).argsort(1)[:, :count]
        is_fixed = torch.zeros(units, inputs, dtype=torch.bool).scatter_(1, chosen, True)
        values = self.kappa * torch.randn(units, inputs, generator=generator)
        return is_fixed.view(weight.shape), values.view(weight.shape)
