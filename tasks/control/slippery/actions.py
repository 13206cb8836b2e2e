"""Checks of the walkers' actions before they reach a simulator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_ACTION = 1e15
"""Largest allowed sum of the absolute values of an action's entries. The cost is computed before the action
is clipped; the sum of squares is then at most 1e30, which leaves float32 room for the factors."""


def checked_action(action: Any, num_joints: int) -> NDArray[Any]:
    """Return an action as an array, without clipping it to the action space.

    Args:
        action: Finite real numbers. Shape: (num_joints,).
        num_joints: Number of entries.

    Returns:
        Floats in their own precision, integers as float64. Shape: (num_joints,).

    Raises:
        TypeError: if the entries are not real numbers.
        ValueError: if the action has another shape, an entry that is not finite, or absolute values whose sum
            is above 1e15 (in half precision 255.9, the square root of its largest number).
    """
    array = np.asarray(action)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"The action must be {num_joints} finite numbers, not of type {array.dtype}: {action!r}."
        )
    if array.shape != (num_joints,):
        raise ValueError(
            f"The action must be {num_joints} finite numbers, shape ({num_joints},), not of shape "
            f"{array.shape}."
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)  # squares would overflow small integer types
    values = array.tolist()
    if not all(map(math.isfinite, values)):
        raise ValueError(not_finite(values))
    # The sum of squares is at most the square of the sum.
    largest = min(LARGEST_ACTION, float(np.finfo(array.dtype).max) ** 0.5)
    if sum(map(abs, values)) > largest:
        raise ValueError(too_large(values, largest))
    return array


def not_finite(values: list[float]) -> str:
    """Return the error message for an action that is not finite."""
    return f"The action must be {len(values)} finite numbers: {values}."


def too_large(values: list[float], largest: float = LARGEST_ACTION) -> str:
    """Return the error message for an action whose absolute values add up to more than `largest`."""
    return (
        "The action is too large: its cost, which is computed before it is clipped, would "
        f"dominate the reward or not be finite: {values}. The absolute values of its entries may add up "
        f"to {largest:g}: clip it to the action space."
    )
