"""Weight decay."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.mitigations.base import Decay, mitigation


@mitigation("weight-decay")
@dataclass(frozen=True, kw_only=True)
class WeightDecay(Decay):
    """Decay toward zero, as torch's weight_decay."""
