"""Concatenated rectified linear units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn import functional

from plasticity.mitigations.base import mitigation
from plasticity.mitigations.concatenated import Concatenated
from plasticity.modules.activations import negative_relu


@mitigation("crelu")
@dataclass(frozen=True, kw_only=True)
class CReLU(Concatenated):
    """Concatenated ReLU (Shang et al., 2016) in place of the activation: relu(z) beside relu(-z).

    A unit has two outputs, of which one is above 0 unless its sum is 0: none is ever dead, and the norm of
    the outputs is that of the sums (Abbas et al., 2023, on plasticity). Metrics count outputs, of which
    one of a unit's may be dead. By default layers keep their number of outputs and have half the units, so
    that the network has about half the parameters.

    Raises:
        TypeError: if a value has the wrong type.
    """

    activations: ClassVar = (functional.relu, negative_relu)
