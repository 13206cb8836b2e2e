"""FIRE: weights replaced by the nearest isometries between tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer
from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.scheduled import Scheduled

SMALLEST_NORM = 1e-12
"""Norm below which a matrix counts as zero, which has no direction."""

JOINED = "in_proj_weight"
"""Name of torch's weight of queries, keys and values, side by side along the units."""


@mitigation("fire")
@dataclass(frozen=True, kw_only=True)
class FIRE(Scheduled):
    """Replacement of each weight by the nearest isometry when a task begins.

    FIRE stands for Frobenius-isometry reinitialization. Of all matrices whose columns (or rows, if these are
    fewer) are orthonormal, the polar factor U V^T of W = U S V^T is nearest to W. It is multiplied by
    sqrt(d_out / d_in), and in a convolution, where each position of the kernel is a matrix by itself, by that
    divided by the number of positions. As in the published code, the weights of all linear layers and
    convolutions are replaced, the output layer's too; biases, normalizations and embeddings stay, and the
    optimizer's state begins anew. Queries, keys and values are a matrix each.

    The published code approximates U V^T by ten iterations of Newton and Schulz, which leave small singular
    values of wide matrices far below 1, and divides by a norm that may be 0. Here the decomposition is exact,
    in double precision, unless `iterations` are given. A matrix of zeros stays, and so does one of a
    network that has diverged.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "projection"
    claims: ClassVar[str] = "the start of a task"
    reads_roles: ClassVar[bool] = True

    head: bool = True
    """Whether the output layer is replaced, too; a policy's small first outputs are lost with it."""

    iterations: int | None = None
    """Iterations of Newton and Schulz, in single precision at least. None: an exact decomposition."""

    restart_optimizer: bool = True
    """Whether the optimizer's state begins anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head", "restart_optimizer"):
            require_bool(name, getattr(self, name))
        if self.iterations is not None:
            require_integer("iterations", self.iterations, minimum=1)

    def act(self, context: Context) -> None:
        """Replace the weights."""
        lead = len(context.lead)
        for name, role in context.roles.items():
            if role.kind != "weight" or (role.is_output and not self.head):
                continue
            weight = context.parameters[name].detach()
            joined = 3 if name.rpartition(".")[2] == JOINED else 1
            for part in weight.chunk(joined, lead):
                part.copy_(isometry(part, lead, self.iterations))
        if self.restart_optimizer:
            context.restart_optimizer()


def isometry(weight: Tensor, lead: int = 0, iterations: int | None = None) -> Tensor:
    """Return the polar factor of a weight, scaled by its sizes.

    Args:
        weight: Weight of a linear layer or a convolution. Shape: (..., units, inputs, *kernel).
        lead: Number of leading dimensions `...`.
        iterations: As in `polar_factor`.
    """
    units, inputs, *kernel = weight.shape[lead:]
    matrices = weight.reshape(*weight.shape[: lead + 2], -1).movedim(-1, lead)
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)
    has_factor = norms.isfinite() & (norms >= SMALLEST_NORM)
    # a decomposition of numbers that are not finite fails, for all networks of a stack
    factors = polar_factor(torch.where(has_factor, matrices, 0), iterations)
    scale = math.sqrt(units / inputs) / math.prod(kernel)
    chosen: Tensor = torch.where(has_factor, factors * scale, matrices)
    return chosen.movedim(lead, -1).reshape(weight.shape)


def polar_factor(matrices: Tensor, iterations: int | None = None) -> Tensor:
    """Return the nearest matrix with orthonormal columns, or rows if these are fewer (Fan & Hoffman, 1955).

    Args:
        matrices: Shape: (..., rows, columns).
        iterations: Number of steps X <- 1.5 X - 0.5 X X^T X of Newton and Schulz, from X = W / |W|. None:
            a singular value decomposition, in double precision where the device has it.
    """
    if iterations is None:
        wide = torch.float32 if matrices.device.type == "mps" else torch.float64
        left, _, right = torch.linalg.svd(matrices.to(wide), full_matrices=False)
        exact: Tensor = left @ right
        return exact.to(matrices.dtype)
    found: Tensor = matrices if matrices.element_size() >= 4 else matrices.float()
    found = found / torch.linalg.matrix_norm(found, keepdim=True).clamp(min=SMALLEST_NORM)
    is_tall = found.shape[-2] > found.shape[-1]
    found = found.mT if is_tall else found
    for _ in range(iterations):  # with the smaller of the two products
        found = 1.5 * found - 0.5 * (found @ found.mT) @ found
    return (found.mT if is_tall else found).to(matrices.dtype)
