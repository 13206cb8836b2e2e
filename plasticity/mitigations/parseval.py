"""Parseval regularization: a penalty that keeps the rows of hidden weights orthogonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.weight_matrices import (
    gram_size,
    squared_deviation,
    weight_matrices,
)

REFERENCE_WIDTH = 64
"""Width of the published networks, at which `strength` is the published one."""


@mitigation("parseval")
@dataclass(frozen=True, kw_only=True)
class Parseval(Mitigation):
    """Penalty on the distance of hidden weights from matrices with orthogonal rows (Chung et al., 2024).

    See "Parseval Regularization for Continual Reinforcement Learning". The loss gets
    strength · Σ (64 / n)² |W Wᵀ - target · I|² over the hidden weights W, n of whose rows are its units, so
    that a strength means the same at any width.

    What is decided here:

    - A weight with more units than inputs has Wᵀ W in place of W Wᵀ, which cannot be a multiple of the
      identity then, and the inputs for n. In the published form it would be pulled in vain.
    - A convolution is the matrix of its units by all that each reads: inputs times kernel.
    - n is each layer's own; the published networks have one width.
    - Output layers, biases and normalizations are left alone, as published. The optional diagonal layers and
      input scales of the paper are no part of this penalty.

    A step costs two products of each weight with its Gram matrix, whatever the batch, which is much for wide
    layers and small batches.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the singular values of the weights"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-5, 1e-4, 1e-3, 1e-2)}
    reads_roles: ClassVar[bool] = True

    strength: float = 1e-3
    """Factor of the penalty; published are 1e-3 and 1e-4."""

    target: float = 2.0
    """Square of the singular values that are wanted: that of the activation's gain, 2 for ReLU, 1 for tanh
    with orthogonal initial weights."""

    def __post_init__(self) -> None:
        for name in ("strength", "target"):
            require_number(name, getattr(self, name), minimum=0.0)

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the weights as they are."""
        total = context.zeros()
        for weight in weight_matrices(context, with_output=False).values():
            target = context.per_run(self.target, weight[..., 0])
            scale = (REFERENCE_WIDTH / gram_size(weight)) ** 2
            total = total + scale * squared_deviation(weight, target)
        return context.per_run(self.strength, total) * total
