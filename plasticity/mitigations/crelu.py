"""Concatenated rectified linear units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch.nn import functional

from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.modules.activations import negative_relu
from plasticity.network_spec import NetworkSpec


@mitigation("crelu")
@dataclass(frozen=True, kw_only=True)
class CReLU(Mitigation):
    """Concatenated ReLU (Shang et al., 2016) in place of the activation: relu(z) beside relu(-z).

    A unit has two outputs, of which one is above 0 unless its sum is 0: none is ever dead, and the norm of
    the outputs is that of the sums (Abbas et al., 2023, on plasticity). Metrics count outputs, of which
    one of a unit's may be dead. By default layers keep their number of outputs and have half the units, so
    that the network has about half the parameters.

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
        activations = (functional.relu, negative_relu)
        layer = replace(spec.layer, activations=activations, keep_units=self.keep_units)
        return replace(spec, layer=layer)
