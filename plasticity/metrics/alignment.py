"""Alignment of the representations of two layers, of the same network or of different ones."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.precision import as_given, in_float64, require_real

__all__ = ["kernel_alignment"]


def kernel_alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of two layers' Gram matrices over the same samples (Cristianini et al., 2001).

    ``⟨F Fᵀ, G Gᵀ⟩ / (|F Fᵀ| |G Gᵀ|)`` in the Frobenius product, computed as ``|Fᵀ G|² / (|Fᵀ F| |Gᵀ G|)``.
    It is 1 if and only if the layers agree up to a rotation and a scale, whatever their widths. Layers with
    nothing in common are above 0: at about ``sqrt(r q) / n`` for random features of ranks r and q of n
    samples, and far higher if the features have a mean. Features minus their mean give the linear CKA of
    Kornblith et al. (2019).

    Args:
        first: Features of one layer. Shape: (..., samples, width).
        second: Features of the other on the same samples; its width may differ. Shape: (..., samples, width).

    Returns:
        From 0 to 1, in the dtype of the first features (at least float32); NaN if a layer's features are
        all 0, or not finite. Shape: (...).

    Raises:
        ValueError: if the numbers of samples differ.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.randn(16, 4)
        >>> round(kernel_alignment(features, 3 * features).item(), 4)  # a scale does not matter
        1.0
    """
    for features in (first, second):
        require_real("features", features)
    if min(first.dim(), second.dim()) < 2 or first.shape[:-1] != second.shape[:-1]:
        raise ValueError(
            f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} are not of the same samples,"
            " expected (..., samples, width) of both"
        )
    f, g = in_float64(first.detach()), in_float64(second.detach())
    # A scale of its own for each keeps the fourth powers in range; a scale changes no cosine.
    f, g = (each / each.abs().amax((-2, -1), keepdim=True) for each in (f, g))
    norms = [torch.linalg.matrix_norm(each.mT @ each) for each in (f, g)]
    return as_given(torch.linalg.matrix_norm(f.mT @ g).square() / (norms[0] * norms[1]), first)
