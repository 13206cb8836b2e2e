"""Leaky rectified linear units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.network_spec import NetworkSpec


@mitigation("leaky-relu")
@dataclass(frozen=True, kw_only=True)
class LeakyReLU(Mitigation):
    """Leaky ReLU (Maas et al., 2013) in place of the activation: z for z above 0, else slope * z.

    No unit is ever dead: its gradient is at least `slope` times the one that arrives. Lillo and Cheney (2025)
    compare it with others in continual learning.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"slope": (0.01, 0.1, 0.3)}

    slope: float = 0.01
    """Slope below 0, at least 0 (a ReLU) and below 1."""

    def __post_init__(self) -> None:
        require_number("slope", self.slope, minimum=0.0, below=1.0)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with this activation, whatever its activation was."""
        layer = replace(spec.layer, activations=(nn.LeakyReLU(self.slope),), keep_units=False)
        return replace(spec, layer=layer)
