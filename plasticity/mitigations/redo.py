"""ReDo: recycling of dormant units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plasticity.checks import require_integer, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context


@mitigation("redo")
@dataclass(frozen=True, kw_only=True)
class ReDo(Mitigation):
    """Reset of dormant units, whose activation is a small share of their layer's (Sokar et al., 2023).

    See "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", Alg. 1. A unit's score is its mean
    absolute activation on the current batch, divided by the mean of its layer. In a layer that is wholly
    silent, every unit is dormant and is reset.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "unit reset"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "tau": (0.01, 0.025, 0.1),
        "every": (100, 1000),
    }

    every: int = 1000
    """Optimizer steps between two looks at the units."""

    tau: float = 0.025
    """Largest score of a dormant unit. 0: only units that are exactly silent."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        require_number("tau", self.tau, minimum=0.0)

    def after_step(self, context: Context) -> None:
        """Reset the units that are dormant on the batch of this step."""
        chosen = {}
        for layer in context.units:
            activity = context.mean_over_samples(context.features(layer).abs())
            scores = activity / (activity.mean(-1, keepdim=True) + 1e-9)
            chosen[layer] = scores <= context.per_run(self.tau, scores)
        context.reset_units(chosen)
