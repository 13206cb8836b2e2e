"""Linear probe: how well a linear classifier of a layer's features does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.checks import require_number
from plasticity.precision import in_float64

__all__ = ["linear_probe_accuracy"]


def linear_probe_accuracy(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    strength: float = 1e-3,
) -> Tensor:
    """Fit a linear classifier to features by least squares, and return its accuracy on others.

    The features are standardized by the mean of each unit and one deviation for all, so that their scale does
    not matter, but the spread of their spectrum does. The classifier is a ridge regression of the classes'
    indicators, a closed form: the accuracy is a function of the features alone.

    Args:
        features: Features to fit, one row per sample. Shape: (samples, units).
        labels: Their classes, int64. Shape: (samples,).
        test_features: Features to classify. Shape: (test samples, units).
        test_labels: Their classes. Shape: (test samples,).
        strength: Strength of the ridge penalty, relative to the mean variance of the units; above 0.

    Returns:
        Share of the test samples whose class has the largest output, float64. Shape: ().

    Raises:
        ValueError: if a feature is not finite, or the strength is not above 0.

    Examples:
        >>> features, labels = torch.eye(4), torch.arange(4)
        >>> linear_probe_accuracy(features, labels, features, labels).item()
        1.0
    """
    if require_number("strength", strength, minimum=0.0) == 0:
        raise ValueError("strength must be above 0: the units may be linearly dependent.")
    wide, test_wide = in_float64(features.detach()), in_float64(test_features.detach())
    if not bool(wide.isfinite().all() and test_wide.isfinite().all()):
        raise ValueError("a feature is not finite. Has the network diverged?")
    mean = wide.mean(dim=0)
    centred = wide - mean
    deviation = centred.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    centred, others = centred / deviation, (test_wide - mean) / deviation
    num_classes = int(torch.maximum(labels.max(), test_labels.max())) + 1
    targets = functional.one_hot(labels.to(wide.device), num_classes).to(centred.dtype)
    base = targets.mean(dim=0)
    units = centred.shape[1]
    gram = centred.T @ centred / len(centred)
    ridge = strength * torch.eye(units, dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge, centred.T @ (targets - base) / len(centred))
    guesses: Tensor = (others @ weights + base).argmax(dim=1)
    return (guesses == test_labels.to(guesses.device)).to(torch.float64).mean()
