"""Units that have stopped working: dead (no output) and dormant (hardly any, next to their layer).

Both are counted over units. The share of zero *entries* of a feature matrix is sparsity, which is another
quantity: a healthy ReLU layer is about half zeros and has no dead unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.metrics.activity import finite_mean
from plasticity.metrics.ranks import require_feature_matrices
from plasticity.precision import wide_dtype

__all__ = ["ZERO_WHEN_DEAD", "dead_fraction", "dead_units", "dormant_fraction", "dormant_units"]

SATURATED_DEVIATION = 1e-3
"""Standard deviation over the batch below which a unit is saturated (Moalla et al., 2024)."""

ZERO_WHEN_DEAD = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "hardshrink", "softshrink"}
)
"""Functions of `torch.nn.functional` in the ReLU family, where a dead unit outputs exactly 0. All others
(tanh …) saturate: a dead unit outputs a constant."""


def dead_fraction(activations: Tensor, saturating: bool = False) -> Tensor:
    """Compute the share of units that `dead_units` marks (Dohare et al., 2024; Moalla et al., 2024).

    Args:
        activations: Outputs of one layer, after the activation function; convolution maps as
            (samples × positions, channels). Shape: (..., batch, width).
        saturating: As in `dead_units`.

    Returns:
        A share from 0 to 1, in the dtype of the activations (at least float32); NaN where an activation is
        not finite. Shape: (...).

    Raises:
        ValueError: if batch or width is empty, or if there are fewer than two dimensions.
        TypeError: if the activations are not real floating-point numbers.

    Examples:
        >>> dead_fraction(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).item()
        0.5
    """
    return _fraction(dead_units(activations, saturating), activations)


def dead_units(activations: Tensor, saturating: bool = False) -> Tensor:
    """Mark the units whose output is the same for every sample.

    Args:
        activations: As in `dead_fraction`. Shape: (..., batch, width).
        saturating: Whether the activation saturates. False, for the ReLU family: a unit is dead if its output
            is exactly 0 on every sample. True, for tanh, sigmoid and others: a unit is dead if its standard
            deviation over the batch (dividing by the batch size) is below 1e-3. A single sample has
            deviation 0, so use a batch.

    Returns:
        True for a dead unit. Shape: (..., width).

    Raises:
        ValueError: as in `dead_fraction`.
        TypeError: as in `dead_fraction`.

    Examples:
        >>> dead_units(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([ True, False])
    """
    require_feature_matrices(activations)
    if not saturating:
        return (activations == 0).all(-2)
    return _at_least_float32(activations).std(-2, correction=0) < SATURATED_DEVIATION


def dormant_fraction(activations: Tensor, tau: float = 0.025) -> Tensor:
    """Compute the share of units that `dormant_units` marks (Sokar et al., 2023).

    Args:
        activations: Outputs of one layer, after the activation function; convolution maps as
            (samples × positions, channels). Shape: (..., batch, width).
        tau: As in `dormant_units`.

    Returns:
        A share from 0 to 1, in the dtype of the activations (at least float32); NaN where an activation is
        not finite. Shape: (...).

    Raises:
        ValueError: if tau is negative or NaN, if batch or width is empty, or with fewer than two
            dimensions.
        TypeError: if the activations are not real floating-point numbers.

    Examples:
        >>> dormant_fraction(torch.tensor([[0.01, 1.0], [0.01, 2.0]])).item()
        0.5
    """
    return _fraction(dormant_units(activations, tau), activations)


def dormant_units(activations: Tensor, tau: float = 0.025) -> Tensor:
    """Mark the units whose mean magnitude is at most tau times the mean over their layer.

    ``E|h_i| / mean_k E|h_k| ≤ tau``. In a layer of zeros, every unit is dormant.

    Args:
        activations: As in `dormant_fraction`. Shape: (..., batch, width).
        tau: Bound on the score, at least 0. With 0, only units that are always 0 are dormant.

    Returns:
        True for a dormant unit. Shape: (..., width).

    Raises:
        ValueError: as in `dormant_fraction`.
        TypeError: as in `dormant_fraction`.

    Examples:
        >>> dormant_units(torch.tensor([[0.01, 1.0], [0.01, 2.0]]))  # 0.01 is 1.3 % of the mean, 0.755
        tensor([ True, False])
    """
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, got {tau}; the published value is 0.025")
    require_feature_matrices(activations)
    magnitudes = _at_least_float32(activations).abs()
    largest = magnitudes.amax(dim=(-2, -1), keepdim=True)
    # In units of the largest magnitude, sums neither overflow nor vanish.
    means = (magnitudes / torch.where(largest > 0, largest, 1.0)).mean(-2)
    return means <= tau * means.mean(-1, keepdim=True)


def _fraction(marked: Tensor, activations: Tensor) -> Tensor:
    return finite_mean(marked.to(wide_dtype(activations)), activations)


def _at_least_float32(activations: Tensor) -> Tensor:
    return activations.detach().to(wide_dtype(activations))
