"""Spectra of features: how the variance of a layer is spread over its directions."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.metrics.ranks import require_feature_matrices
from plasticity.precision import as_given, in_float64

__all__ = ["covariance_eigenvalues"]


def covariance_eigenvalues(features: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of a layer's units, the largest first (syre, Figs. 5 and 8).

    The covariance is ``Xᵀ X / batch`` with ``X`` the features minus their mean over the batch.

    Args:
        features: Activations of one layer, one row per sample. Shape: (..., batch, width).

    Returns:
        Variances along the principal directions, at least 0, in squared units of the features and in their
        dtype (at least float32). As many as units: at most ``batch - 1`` of them are above 0.
        Shape: (..., width).

    Raises:
        ValueError: if a feature is not finite, if batch or width is empty, or if there are fewer than two
            dimensions.
        TypeError: if the features are not real floating-point numbers.

    Examples:
        >>> features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # the second unit is constant
        >>> covariance_eigenvalues(features)[1].item()
        0.0
    """
    require_feature_matrices(features)
    matrix = in_float64(features.detach())
    if not bool(matrix.isfinite().all()):
        raise ValueError(
            "a feature is not finite, so the covariance has no spectrum. Has the network diverged? Check its"
            " loss and its weight norm."
        )
    centred = matrix - matrix.mean(dim=-2, keepdim=True)
    covariance = centred.mT @ centred / matrix.shape[-2]
    # Rounding may make an eigenvalue of 0 slightly negative.
    return as_given(torch.linalg.eigvalsh(covariance).flip(-1).clamp(min=0.0), features)
