"""Gradients that a decay is added to for one step and that are restored after it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.decay import shift_gradients_, shifted_gradients


class JoinedGradients:
    """Record of the changes that a step made to the gradients, which can be undone."""

    def __init__(self) -> None:
        self.moved = False
        self._shifted: list[tuple[list[Tensor], list[Tensor], float]] = []
        self._replaced: list[tuple[Tensor, Tensor | None]] = []
        self._requests: list[Any] = []

    def shift(self, *request: Any) -> None:
        """Request gradients minus strength * anchor, which `apply` computes.

        Args:
            *request: Parameters, gradients, anchors, strength.
        """
        self._requests.append(request)

    def apply(self) -> None:
        """Apply the requested shifts, in place (which takes no memory) where that is safe."""
        uses = Counter(
            gradient.data_ptr() for _, gradients, _, _ in self._requests for gradient in gradients
        )
        in_place = []
        for parameters, gradients, anchors, strength in self._requests:
            if all(uses[g.data_ptr()] == 1 and _may_write(g) for g in gradients):
                in_place.append((gradients, anchors, strength))
            else:
                self.replace(parameters, shifted_gradients(gradients, anchors, strength))
        # After all copies are made: a gradient may belong to parameters of several groups.
        for gradients, anchors, strength in in_place:
            shift_gradients_(gradients, anchors, strength)
        self._shifted = in_place
        self._requests.clear()

    def replace(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Set the parameters' gradients to others, and remember the old ones."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            self._replaced.append((parameter, parameter.grad))
            parameter.grad = gradient

    def undo(self) -> None:
        """Restore the gradients: the replaced ones exactly, the shifted ones to rounding."""
        for parameter, gradient in reversed(self._replaced):
            parameter.grad = gradient
        if self._shifted:
            with torch.no_grad():
                for gradients, anchors, strength in self._shifted:
                    shift_gradients_(gradients, anchors, -strength)
        self._replaced.clear()
        self._shifted.clear()


def _may_write(gradient: Tensor) -> bool:
    # Autograd may store one number for many elements; and digits that a half precision gradient loses
    # to the anchor cannot be restored.
    if gradient.dtype not in (torch.float32, torch.float64) or gradient.is_inference():
        return False
    return 0 not in gradient.stride()
