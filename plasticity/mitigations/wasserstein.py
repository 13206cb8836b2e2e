"""Wasserstein regularization: a penalty that keeps the distribution of each parameter's entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context


@mitigation("wasserstein")
@dataclass(frozen=True, kw_only=True)
class Wasserstein(Mitigation):
    """Penalty on how far the entries of each parameter are from its first ones, in any order.

    See Lewandowski et al., "Directions of Curvature as an Explanation for Loss of Plasticity" (2023), and the
    comparison of Chung et al. (2024). The loss gets

        strength · Σ over parameters of |sort(θ) - sort(θ₀)|² / entries,

    the squared distance in the sense of Wasserstein between the values of the entries now and at the
    beginning. Other than an L2 distance from the first weights, it lets entries trade places. All parameters
    that are trained count, biases and normalizations included; where all entries began equal, as biases of 0,
    it is the L2 distance.

    A step sorts every parameter, which is most of its cost.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the distribution of the weights"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-3, 1e-2, 1e-1, 1.0)}

    strength: float = 1e-3
    """Factor of the penalty."""

    def __post_init__(self) -> None:
        require_number("strength", self.strength, minimum=0.0)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the first entries, sorted. Shape of each: (..., entries)."""
        # also of what is frozen now, and may be trained later
        return {name: _sorted(each.detach(), context) for name, each in context.parameters.items()}

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the parameters as they are."""
        total = context.zeros()
        for name, each in context.parameters.items():
            if each.requires_grad and each.numel():
                distances = _sorted(each, context) - context.state[name]
                total = total + distances.square().mean(-1)
        return context.per_run(self.strength, total) * total


def _sorted(parameter: Tensor, context: Context) -> Tensor:
    return parameter.reshape(*context.lead, -1).sort(-1).values
