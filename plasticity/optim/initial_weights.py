"""Anchors of l2-init: the initial weights, by parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class InitialWeights(dict[Tensor, Tensor]):
    """Anchors of l2-init by parameter, as part of an optimizer's `defaults`.

    A deep copy returns the object itself: copied defaults refer to the same parameters, and so to the
    same tensors.
    """

    def __deepcopy__(self, _memo: dict[int, Any]) -> InitialWeights:
        return self


def of_shape(weights: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy of initial weights with the dtype and device of their parameter.

    Raises:
        ValueError: if their shape differs from the parameter's.
    """
    if weights.shape != parameter.shape:
        raise ValueError(
            f"initial_weights gives a parameter of shape {tuple(parameter.shape)} weights of shape"
            f" {tuple(weights.shape)}: give weights of the parameter's shape."
        )
    return torch.empty_like(parameter).copy_(weights)
