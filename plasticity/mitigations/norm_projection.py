"""Norm projection: each weight is scaled back to the norm that it had at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context

EPSILON = 1e-12
"""Smallest norm that is divided by."""


@mitigation("norm-projection")
@dataclass(frozen=True, kw_only=True)
class NormProjection(Mitigation):
    """Projection of each weight to its first norm after every step.

    It is `nap` for networks that have normalizations of their own. After a step, W becomes W * rho / |W|,
    with its Frobenius norm at first, rho: that of the whole tensor, of a convolution, too. Where a
    normalization follows the layer, its outputs stay as they are, and the effective learning rate no longer
    falls as weights grow. Biases are left alone, and so are the optimizer's moments and weights that are 0 at
    first.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "projection"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str | tuple[str, ...]] = "the projection"
    reads_roles: ClassVar[bool] = True

    every: int = 1
    """Optimizer steps between two projections."""

    head: bool = True
    """Whether the output layer is projected, too."""

    rescale_affine: bool = False
    """Whether the factors and offsets of each normalization are scaled, too, to the norm that both together
    had at first. This leaves the next layer's features alone with activations such as ReLU only."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        for name in ("head", "rescale_affine"):
            require_bool(name, getattr(self, name))

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the norm of each weight, or of each normalization's parameters. Shape of each: (...)."""
        return {key: _norm(context, names) for key, names in self._projected(context).items()}

    def after_step(self, context: Context) -> None:
        """Scale the weights."""
        for key, names in self._projected(context).items():
            target = context.state[key]
            factor = target / _norm(context, names).clamp(min=EPSILON)
            factor = torch.where(target > 0, factor, 1.0)
            for name in names:
                weight = context.parameters[name]
                weight.mul_(context.per_run(factor, weight))

    def _projected(self, context: Context) -> dict[str, list[str]]:
        """Return the names of the parameters that are scaled together, by a name of theirs."""
        found: dict[str, list[str]] = {}
        for name, role in context.roles.items():
            if role.kind == "weight" and (self.head or not role.is_output):
                found[name] = [name]
            elif role.kind in ("scale", "offset") and self.rescale_affine:
                found.setdefault(f"{role.layer}.affine", []).append(name)
        return found


def _norm(context: Context, names: list[str]) -> Tensor:
    """Return the norm of parameters together. Shape: (...)."""
    lead = len(context.lead)
    each = [context.parameters[name].detach() for name in names]
    norms: list[Tensor] = [
        torch.linalg.vector_norm(one, dim=tuple(range(lead, one.dim()))) for one in each
    ]
    return norms[0] if len(norms) == 1 else torch.stack(norms).square().sum(0).sqrt()
