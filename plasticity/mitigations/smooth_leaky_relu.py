"""Smooth-Leaky activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.modules.activations import SmoothLeakyReLU as Activation
from plasticity.network_spec import NetworkSpec


@mitigation("smooth-leaky-relu")
@dataclass(frozen=True, kw_only=True)
class SmoothLeakyReLU(Mitigation):
    """Smooth-Leaky activation (Lillo & Cheney, 2025) in place of the activation.

    ``f(z) = slope * z + (1 - slope) * z * sigmoid(sharpness * z)``: a leaky ReLU far from 0, without a kink.
    The paper writes the sharpness as c / p, with c = 5 and p = 3; only the ratio matters. The derivative is
    not at least `slope` everywhere: at the defaults it goes down to 0.01, near z = -1.4.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"slope": (0.01, 0.1, 0.3)}

    slope: float = 0.1
    """Slope far below 0, at least 0 and below 1."""

    sharpness: float = 5 / 3
    """Factor of the sums within the sigmoid, above 0."""

    def __post_init__(self) -> None:
        require_number("slope", self.slope, minimum=0.0, below=1.0)
        if require_number("sharpness", self.sharpness, minimum=0.0) == 0:
            raise ValueError("sharpness must be above 0: with 0, the activation is linear.")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with this activation, whatever its activation was."""
        activation = Activation(self.slope, self.sharpness)
        layer = replace(spec.layer, activations=(activation,), keep_units=False)
        return replace(spec, layer=layer)
