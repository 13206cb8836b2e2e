"""Weights that l2-init holds parameters to, by parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class InitialWeights(dict[Tensor, Tensor]):
    """L2-init's anchors by parameter, as part of an optimizer's `defaults`.

    A copy of the defaults is about the same parameters, and so about these very tensors.
    """

    def __deepcopy__(self, _memo: dict[int, Any]) -> InitialWeights:
        return self


def of_shape(weights: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy of given initial weights in the dtype and on the device of their parameter.

    Raises:
        ValueError: if they have another shape.
    """
    if weights.shape != parameter.shape:
        raise ValueError(
            f"initial_weights gives a parameter of shape {tuple(parameter.shape)} weights of shape"
            f" {tuple(weights.shape)}: give its own."
        )
    return torch.empty_like(parameter).copy_(weights)
