"""Activity of units: the share of their outputs that are active, and units that are hardly ever inactive."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plasticity.metrics.ranks import require_feature_matrices
from plasticity.precision import wide_dtype

__all__ = ["active_fraction", "linearized_fraction", "linearized_units"]


def active_fraction(activations: Tensor, bounds: tuple[float, float] | None = None) -> Tensor:
    """Compute the share of outputs that are active, over samples and units ("FAU": Ma et al., 2024).

    It is one minus the sparsity of the layer: a healthy ReLU layer is at about a half, and a unit that is
    active on a single sample counts a little, where `dead_fraction` takes it as alive.

    Args:
        activations: Outputs of one layer, after the activation function; convolution maps as
            (samples × positions, channels). Shape: (..., batch, width).
        bounds: Bounds, both included, between which an output is active, for functions that saturate:
            (-0.99, 0.99) for tanh, (0.01, 0.99) for sigmoid. None, for the ReLU family: an output is active
            unless it is exactly 0.

    Returns:
        A share from 0 to 1, in the dtype of the activations (at least float32); NaN where an activation is
        not finite. Shape: (...).

    Raises:
        ValueError: if the bounds are not ascending, if batch or width is empty, or if there are fewer than
            two dimensions.
        TypeError: if the activations are not real floating-point numbers.

    Examples:
        >>> active_fraction(torch.tensor([[0.0, 1.0], [0.0, 2.0]])).item()
        0.5
    """
    require_feature_matrices(activations)
    if bounds is None:
        return finite_mean((activations != 0).to(wide_dtype(activations)).mean(-1), activations)
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be ascending, got {bounds}; those of tanh are (-0.99, 0.99)")
    active = (activations >= low) & (activations <= high)
    return finite_mean(active.to(wide_dtype(activations)).mean(-1), activations)


def linearized_fraction(activations: Tensor, threshold: float = 0.9) -> Tensor:
    """Compute the share of units that `linearized_units` marks.

    Args:
        activations: Outputs of one layer, as in `active_fraction`. Shape: (..., batch, width).
        threshold: As in `linearized_units`.

    Returns:
        A share from 0 to 1, in the dtype of the activations (at least float32); NaN where an activation is
        not finite. Shape: (...).

    Raises:
        ValueError: as in `linearized_units`.
        TypeError: as in `linearized_units`.

    Examples:
        >>> linearized_fraction(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).item()
        0.5
    """
    marked = linearized_units(activations, threshold)
    return finite_mean(marked.to(wide_dtype(activations)), activations)


def linearized_units(activations: Tensor, threshold: float = 0.9) -> Tensor:
    """Mark the units that are positive on nearly every sample, where functions of the ReLU family are linear.

    A layer of such units adds no non-linearity to its network. The output of these functions is positive
    where their input is, so outputs are enough; of other functions (tanh …) the number has no such meaning.

    Args:
        activations: Outputs of one layer, as in `active_fraction`. Shape: (..., batch, width).
        threshold: Share of the samples, above 0, from which a unit counts.

    Returns:
        True for a linearised unit. Shape: (..., width).

    Raises:
        ValueError: if the threshold is not above 0 and at most 1, if batch or width is empty, or if there
            are fewer than two dimensions.
        TypeError: if the activations are not real floating-point numbers.

    Examples:
        >>> linearized_units(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        tensor([ True, False])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}; 0.9 is usual")
    require_feature_matrices(activations)
    # Counted in whole samples: a share in float32 may round to either side of the threshold.
    return (activations > 0).sum(-2) >= math.ceil(threshold * activations.shape[-2] - 1e-9)


def finite_mean(values: Tensor, activations: Tensor) -> Tensor:
    """Return the mean over the last axis; NaN where an activation is not finite.

    Comparisons are False for NaN, which would report a diverged layer as a healthy or a silent one.
    """
    finite = activations.detach().to(wide_dtype(activations)).isfinite().all(-1).all(-1)
    return torch.where(finite, values.mean(-1), torch.nan)
