"""L2 regularization toward the initial weights."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.mitigations.base import Decay, mitigation


@mitigation("l2-init")
@dataclass(frozen=True, kw_only=True)
class L2Init(Decay):
    """Decay toward the initial weights (Kumar et al., 2023)."""
