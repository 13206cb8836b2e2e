"""Activations with several outputs for each unit: the base of their mitigations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from plasticity.checks import require_bool
from plasticity.mitigations.base import Kind, Mitigation
from plasticity.network_spec import NetworkSpec


@dataclass(frozen=True, kw_only=True)
class Concatenated(Mitigation):
    """Several functions of each sum in place of the activation, whose outputs lie side by side.

    By default layers keep their number of outputs and have fewer units, so that the network has fewer
    parameters: half, where there are two functions.

    Raises:
        TypeError: if a value has the wrong type.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"

    activations: ClassVar[tuple[Callable[[Tensor], Tensor], ...]]
    """The functions, entry by entry."""

    keep_units: bool = False
    """Whether layers keep their number of units, and have several times the outputs."""

    def __post_init__(self) -> None:
        require_bool("keep_units", self.keep_units)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with these functions, whatever its activation was."""
        layer = replace(spec.layer, activations=self.activations, keep_units=self.keep_units)
        return replace(spec, layer=layer)
