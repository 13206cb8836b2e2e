"""Deep Fourier features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.network_spec import NetworkSpec


@mitigation("fourier-features")
@dataclass(frozen=True, kw_only=True)
class FourierFeatures(Mitigation):
    """Deep Fourier features (Lewandowski et al., 2025) in place of the activation: sin(z) beside cos(z).

    Where one of a unit's two outputs is flat, the other is nearly linear: the derivatives (cos z, -sin z)
    have norm 1 for every sum z, and no unit can be dead. The features of a layer of n units have norm
    sqrt(n). The paper uses them in all layers, together with a regularizer of the weights
    (`fourier-features+weight-decay`). The initial weights stay those of the network's scheme: the paper's
    scale is not verified. By default layers keep their number of outputs and have half the units, as `crelu`.

    Raises:
        TypeError: if a value has the wrong type.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"

    keep_units: bool = False
    """Whether layers keep their number of units, and have twice the outputs."""

    def __post_init__(self) -> None:
        if not isinstance(self.keep_units, bool):
            raise TypeError(f"keep_units must be True or False, not {self.keep_units!r}.")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with the two activations, whatever its activation was."""
        activations = (torch.sin, torch.cos)
        layer = replace(spec.layer, activations=activations, keep_units=self.keep_units)
        return replace(spec, layer=layer)
