"""Weight decay."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.mitigations.base import Decay, mitigation


@mitigation("weight-decay")
@dataclass(frozen=True, kw_only=True)
class WeightDecay(Decay):
    """Decay toward zero, as torch's weight_decay.

    It adds `strength * theta` to the gradient of every regularized weight `theta`, the gradient of the
    penalty `strength / 2 * |theta|^2`. Zero is also the most symmetric state of a network: identical
    neurons, dead neurons and low-rank attention are all drawn toward it.
    """
