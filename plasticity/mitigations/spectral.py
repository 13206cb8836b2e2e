"""Spectral regularization: a penalty that keeps the largest singular value of each weight near 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.checks import require_integer, require_number
from plasticity.initialization import Normal
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.weight_matrices import weight_matrices

FIRST_ITERATIONS = 20
"""Power iterations before the first step."""


@mitigation("spectral")
@dataclass(frozen=True, kw_only=True)
class Spectral(Mitigation):
    """Penalty on the distance of each weight's largest singular value σ from 1 (Lewandowski et al., 2025).

    See "Learning Continually by Spectral Regularization". With k the `power`, the loss gets strength times

        Σ over weights of (σᵏ - 1)² + Σ over biases of |b|²ᵏ + Σ over a normalization's factors of |γ - 1|²,

    where offsets of normalizations count as biases. Output layers are included.

    What is decided here:

    - σ is uᵀ W v, with vectors u and v that are kept from step to step and get one power iteration in each.
      The gradient goes through W alone: σ's own is u vᵀ.
    - A convolution is the matrix of its units by all that each reads: inputs times kernel.
    - Embeddings, tokens and parameters of an unknown role are left alone.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the singular values of the weights"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-4, 1e-3, 1e-2, 1e-1)}
    reads_roles: ClassVar[bool] = True

    strength: float = 1e-3
    """Factor of the penalty; published are searches from 1e-4 to 1e-2."""

    power: int = 2
    """Power k of the singular values."""

    def __post_init__(self) -> None:
        require_number("strength", self.strength, minimum=0.0)
        require_integer("power", self.power, minimum=1)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the first left vector of each weight, u, drawn at random. Shape of each: (..., units)."""
        state = {}
        for name, weight in weight_matrices(context, with_output=True).items():
            left = torch.empty_like(weight[..., 0], memory_format=torch.contiguous_format)
            left = _unit(context.draw(Normal(1.0), left))
            for _ in range(FIRST_ITERATIONS):
                left, _ = _iterated(weight, left)
            state[f"left/{name}"] = left
        return state

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the weights as they are, after one power iteration."""
        matrices = weight_matrices(context, with_output=True).items()
        # each list begins with what adds nothing, if there are no others
        largest, biases, scales = [context.zeros() + 1], [context.zeros()], [context.zeros()]
        largest += [_largest(weight, context.state[f"left/{name}"]) for name, weight in matrices]
        for name, role in context.roles.items():
            if role.kind in ("bias", "offset"):
                biases.append(_squared_norm(context.parameters[name], context))
            elif role.kind == "scale":
                scales.append(_squared_norm(context.parameters[name] - 1, context))
        total = (torch.stack(largest, -1) ** self.power - 1).square().sum(-1)
        total = total + (torch.stack(biases, -1) ** self.power).sum(-1)
        total = total + torch.stack(scales, -1).sum(-1)
        return context.per_run(self.strength, total) * total


def _largest(weight: Tensor, left: Tensor) -> Tensor:
    """Return the largest singular value after one power iteration, which `left` takes over.

    Shape: (..., units, entries) and (..., units) to (...).
    """
    with torch.no_grad():
        # not in place: the gradient of an earlier penalty may still need the vector that it used
        new, right = _iterated(weight, left)
        left.copy_(new)
    largest: Tensor = torch.linalg.vecdot(new, (weight @ right.unsqueeze(-1)).squeeze(-1))
    return largest


def _squared_norm(parameter: Tensor, context: Context) -> Tensor:
    entries = parameter.flatten(len(context.lead))
    squared: Tensor = torch.linalg.vecdot(entries, entries)
    return squared


def _iterated(weight: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Do one power iteration.

    Args:
        weight: Shape: (..., units, entries).
        left: Left vector. Shape: (..., units).

    Returns:
        The next left vector, and the right one. A weight of 0 leaves the left one as it is.
    """
    right = _unit((left.unsqueeze(-2) @ weight).squeeze(-2))
    new = _unit((weight @ right.unsqueeze(-1)).squeeze(-1))
    return torch.where(new.any(-1, keepdim=True), new, left), right


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors at a length of 1, but for those of length 0. Shape: (..., entries)."""
    return functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)
