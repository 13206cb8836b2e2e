"""Deviation from isometry: how far each layer's weight matrix is from one that keeps lengths."""

from __future__ import annotations

from torch import Tensor, nn

from plasticity.metrics.norms import parameters_of
from plasticity.precision import as_given, in_float64

__all__ = ["deviation_from_isometry", "isometry_deviation"]


def deviation_from_isometry(model: nn.Module) -> dict[str, Tensor]:
    """Compute ``|G - I|²`` of each layer's weight matrix, with its smaller Gram matrix G (FIRE).

    It is 0 if and only if the matrix is orthogonal: the columns of a tall matrix, or the rows of a wide one,
    are orthonormal. It depends on the scale of the weights: matrices far smaller than orthogonal ones are
    near the number of their rows or columns, whichever is smaller.

    A convolution's kernels are the rows of one matrix of shape (out, in × positions), as in
    `torch.nn.init.orthogonal_`; FIRE takes each position's matrix by itself.

    Args:
        model: Any module with initialised parameters. Parameters with fewer than two axes are left out.

    Returns:
        Scalars by layer name in the order of the network, or by the parameter's name where a layer has
        several matrices (an LSTM). Each is on its layer's device, in its dtype (at least float32).

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> list(deviation_from_isometry(model))
        ['0', '2']
    """
    matrices = {name: each.detach() for name, each in parameters_of(model).items() if each.ndim > 1}
    owners = [name.rpartition(".")[0] for name in matrices]
    return {
        layer if layer and owners.count(layer) == 1 else name: isometry_deviation(matrix)
        for layer, (name, matrix) in zip(owners, matrices.items(), strict=True)
    }


def isometry_deviation(weight: Tensor) -> Tensor:
    """Compute ``|G - I|²`` (Frobenius) of one weight, with G the smaller of ``W Wᵀ`` and ``Wᵀ W``.

    With singular values σ this is ``Σ (σ² - 1)²``.

    Args:
        weight: Weight of one layer, whose axes after the first are taken as one. Shape: (out, ...).

    Returns:
        A number of at least 0, computed in float64, in the weight's dtype (at least float32). Shape: ().

    Examples:
        >>> isometry_deviation(torch.tensor([[2.0, 0.0], [0.0, 1.0]])).item()  # (4 - 1) squared
        9.0
    """
    deviation = gram_deviation(in_float64(weight.detach()).flatten(1))
    return as_given(deviation.square().sum(), weight)


def gram_deviation(weight: Tensor, target: float | Tensor = 1.0) -> Tensor:
    """Compute the smaller of W Wᵀ and Wᵀ W, minus a multiple of the identity.

    Only the smaller one can be such a multiple: the larger has a lower rank.

    Args:
        weight: W. Shape: (..., units, entries).
        target: Multiple of the identity. Shape: (..., 1), or a number.

    Returns:
        Shape: (..., n, n), with n the smaller side of the weight.
    """
    gram = weight @ weight.mT if is_wide(weight) else weight.mT @ weight
    gram.diagonal(dim1=-2, dim2=-1).sub_(target)
    return gram


def is_wide(weight: Tensor) -> bool:
    """Return whether a matrix (..., units, entries) has no more units than entries."""
    units, entries = weight.shape[-2:]
    return units <= entries
