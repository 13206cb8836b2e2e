"""Weights of layers as matrices, and how far these are from multiples of an isometry."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plasticity.metrics.isometry import gram_deviation, is_wide
from plasticity.mitigations.context import Context


def weight_matrices(context: Context, *, with_output: bool) -> dict[str, Tensor]:
    """Return the weights of linear layers and convolutions as matrices, by name; needs `reads_roles`.

    A row holds what a unit reads: all inputs, and all places of a kernel. Shape: (..., units, entries).

    Args:
        context: The networks.
        with_output: Whether to return the weights of output layers, too.
    """
    return {
        name: context.parameters[name].flatten(len(context.lead) + 1)
        for name, role in context.roles.items()
        if role.kind == "weight" and (with_output or not role.is_output)
    }


def gram_size(weight: Tensor) -> int:
    """Return the number of rows of the smaller Gram matrix of a weight (..., units, entries)."""
    return min(weight.shape[-2:])


def deviation_gradient(weight: Tensor, deviation: Tensor) -> Tensor:
    """Compute the gradient of |gram_deviation|² with respect to the weight: 4 D W, or 4 W D.

    Shape: (..., units, entries) and (..., n, n) to (..., units, entries).
    """
    return 4 * (deviation @ weight if is_wide(weight) else weight @ deviation)


def squared_deviation(weight: Tensor, target: float | Tensor) -> Tensor:
    """Compute |gram_deviation|² in the Frobenius norm, with a graph. Shape: (..., units, entries) to (...).

    It takes one product of matrices forward and one backward, where autograd would take two.
    """
    with full_precision(weight):
        result: Tensor = _SquaredDeviation.apply(weight, target)  # type: ignore[no-untyped-call]
    return result


def full_precision(weight: Tensor) -> AbstractContextManager[None]:
    """Let products of weights keep their precision inside the block, which may be one of autocast."""
    return torch.autocast(weight.device.type, enabled=False)


class _SquaredDeviation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, target: float | Tensor) -> Tensor:
        deviation = gram_deviation(weight, target)
        ctx.save_for_backward(weight, deviation)
        return deviation.square().sum((-1, -2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        weight, deviation = ctx.saved_tensors
        return gradient[..., None, None] * deviation_gradient(weight, deviation), None
