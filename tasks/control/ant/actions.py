"""Actions of the ants, checked before a simulator gets them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.bullet_simulation import NUM_JOINTS

LARGEST_ACTION = 1e15
"""What the sizes of an action's entries may add up to. Its cost is that of the action before it is clipped,
whose squares are then at most 1e30 together: float32 has them, with room for what they are multiplied by."""


def checked_action(action: Any) -> NDArray[Any]:
    """Return an action as an array; what is outside the action space is not clipped here.

    Args:
        action: Finite real numbers. Shape: (8,).

    Returns:
        Floats in the precision that they came in, integers as float64. Shape: (8,).

    Raises:
        TypeError: if it has no real numbers.
        ValueError: if it has another shape, an entry that is not finite, or more than 1e15 in sum (in half
            precision 255.9, the root of its largest number).
    """
    array = np.asarray(action)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"The action must be {NUM_JOINTS} finite numbers, not of type {array.dtype}: {action!r}."
        )
    if array.shape != (NUM_JOINTS,):
        raise ValueError(
            f"The action must be {NUM_JOINTS} finite numbers, shape ({NUM_JOINTS},), not of shape "
            f"{array.shape}."
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)  # the squares of small integers would overflow
    values = array.tolist()
    if not all(map(math.isfinite, values)):
        raise ValueError(not_finite(values))
    # The sum of squares is at most the square of the sum.
    largest = min(LARGEST_ACTION, float(np.finfo(array.dtype).max) ** 0.5)
    if sum(map(abs, values)) > largest:
        raise ValueError(too_large(values, largest))
    return array


def not_finite(values: list[float]) -> str:
    """Say what is wrong with an action that is not finite."""
    return f"The action must be {NUM_JOINTS} finite numbers: {values}."


def too_large(values: list[float], largest: float = LARGEST_ACTION) -> str:
    """Say what is wrong with an action whose entries add up to more than `largest`."""
    return (
        "The action is so large that its cost, which is that of the action before it is clipped to "
        f"[-1, 1], would drown all else or not be finite: {values}. The sizes of its entries may add up "
        f"to {largest:g}: clip it to the action space."
    )
