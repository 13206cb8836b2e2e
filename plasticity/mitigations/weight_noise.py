"""Noise on all weights after optimizer steps: shrink and perturb at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from plasticity.checks import require_integer, require_number
from plasticity.initialization import Normal
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context

UNIT = Normal(1.0)


@mitigation("weight-noise")
@dataclass(frozen=True, kw_only=True)
class WeightNoise(Mitigation):
    """Normal noise on all weights after every step (Dohare et al., 2024).

    In "Loss of Plasticity in Deep Continual Learning", "shrink and perturb" is weight decay with this noise:
    the method `weight-decay+weight-noise`. The noise is isotropic, the same for biases, normalizations and
    the output layer, and does not depend on the learning rate; ports that speak of its variance, or multiply
    it by the rate, have other numbers. Weights without gradients that a decay multiplies by a in each step
    come to have the variance deviation^2 / (1 - a^2).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "the noise on weights"
    search: ClassVar[dict[str, tuple[float, ...]]] = {"deviation": (1e-6, 1e-5, 1e-4)}

    every: int = 1
    """Optimizer steps between two additions."""

    deviation: float = 1e-5
    """Standard deviation of what is added to each weight, each time."""

    shrink: float = 1.0
    """Factor of the weights before the noise is added. 1: they are left to the decay."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        for name in ("deviation", "shrink"):
            require_number(name, getattr(self, name), minimum=0.0)

    def after_step(self, context: Context) -> None:
        """Shrink the weights, and add noise."""
        weights = [*context.trained.values()]
        sizes = [each.numel() // len(context.generators) for each in weights]
        # One draw for all: on a GPU, one for each weight would take most of the time of a step.
        noise = context.draw(UNIT, weights[0].new_empty((*context.lead, sum(sizes))))
        noise.mul_(context.per_run(self.deviation, noise))
        parts = torch.split(noise, sizes, -1)
        if not isinstance(self.shrink, float) or self.shrink != 1:
            for each in weights:
                each.mul_(context.per_run(self.shrink, each))
        torch._foreach_add_(
            weights, [part.view(each.shape) for part, each in zip(parts, weights, strict=True)]
        )
