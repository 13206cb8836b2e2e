"""Degree of symmetry by layer, relative to the layer's present weights: numbers for a row of metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from plasticity.symmetry.report import NothingToMeasureError, counted, symmetry_distances

SHARE = 0.1
"""Threshold of a row's degree of symmetry: this share of the layer's typical distance."""


def typical_distance(distances: Tensor) -> Tensor:
    """Return the root mean square of a layer's distances: the scale that its degree of symmetry refers to.

    The scale-free bound of Ziyin et al. (2025) is a share of the mean *initial* distance. The present
    distances need no memory of the initial weights, so a resumed run, a saved model and a network of anyone
    have the same number. At the beginning, where all pairs are about equally far apart, it is that bound.
    Later it follows the scale of the layer: weights that shrink all alike do not become more symmetric by
    it (their norm shows that). Where all but a few neurons have become identical, those few determine it:
    m of h distances that remain leave √(m / h) of it, where a mean would leave m / h, and a median nothing.

    Args:
        distances: Distances of one layer (or eigenvalues of attention heads). Shape: any.

    Returns:
        A number of at least 0. Shape: ().
    """
    return distances.square().mean().sqrt()


def relative_degree_of_symmetry(
    model: nn.Module, run: Callable[[nn.Module], Any]
) -> dict[str, Tensor]:
    """Count the pairs of neighbouring neurons closer than `SHARE` of their layer's typical distance.

    Args:
        model: Network whose probe pass shows which layers read which, as in `symmetry_distances`.
        run: Function that runs the module that it is given on a probe batch.

    Returns:
        The degrees of symmetry by layer, of shape () each: from 0 to h - 1 for h neurons; for an attention
        module, the number of directions that queries and keys do not use, summed over its heads. Layers
        whose readers are not known are left out; if no layer is left, a warning says why.

    Raises:
        ValueError: as `symmetry_distances`, if a weight is not finite.
    """
    try:
        report = symmetry_distances(model, inputs=run)
    except NothingToMeasureError as error:  # a row has other metrics, and the training is to go on
        warnings.warn(f"Rows have no degree_of_symmetry: {error}", stacklevel=2)
        return {}
    scales = {name: typical_distance(distances) for name, distances in report.items()}
    return {name: degree.sum() for name, degree in counted(model, report, SHARE, scales).items()}
