"""Checks of the arguments that streams and environments are made from."""

from __future__ import annotations

import math
import operator
from numbers import Real


def require_integer(name: str, value: object, *, minimum: int) -> int:
    """Return `value` as an int, or say which integer was expected.

    Raises:
        TypeError: if the value is no integer (a bool is none).
        ValueError: if it is under `minimum`.
    """
    # A bool is an integer to Python; here it would be a mistake.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r} ({type(value).__name__}).")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}: {number}.")
    return number


def require_number(name: str, value: object, *, minimum: float) -> float:
    """Return `value` as a float, or say which number was expected.

    Raises:
        TypeError: if the value is no real number (a bool is none).
        ValueError: if it is not finite or under `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r} ({type(value).__name__}).")
    number = float(value)
    if not math.isfinite(number) or number < minimum:
        raise ValueError(f"{name} must be a finite number of at least {minimum:g}: {value!r}.")
    return number
