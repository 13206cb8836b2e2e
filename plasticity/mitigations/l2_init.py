"""L2 regularization toward the initial weights."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.mitigations.base import Decay, mitigation


@mitigation("l2-init")
@dataclass(frozen=True, kw_only=True)
class L2Init(Decay):
    """Decay toward the initial weights (Kumar et al., 2023).

    It adds `strength * (theta - theta_init)` to the gradient: the network stays near the point from which
    it could learn. See "Maintaining Plasticity in Continual Learning via Regenerative Regularization".
    The anchors are the weights that the parameters have when the optimizer is made, and are saved with it.
    """
