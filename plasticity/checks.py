"""Argument checks whose errors name the value, the expectation and the nearest known name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real

MAX_SEED = 2**64 - 1
"""Largest seed that torch's generators take."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known name, if any is close, and all names."""
    known = list(known)
    match = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {match[0]!r}?" if match else ""
    return f"{hint} Known: {', '.join(repr(entry) for entry in known)}."


def require_number(name: str, value: object, *, minimum: float, below: float = math.inf) -> float:
    """Return `value` as a float, or raise an error that names the expected range.

    Raises:
        TypeError: if the value is not a real number (a bool does not count as one).
        ValueError: if it is not finite, less than `minimum`, or not less than `below`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r} ({type(value).__name__}).")
    number = float(value)
    if not math.isfinite(number) or number < minimum or number >= below:
        upper = "" if below == math.inf else f" and below {below:.4g}"
        raise ValueError(
            f"{name} must be a finite number of at least {minimum:g}{upper}: {value!r}."
        )
    return number


def as_integer(name: str, value: object) -> int:
    """Return `value` as an int, or raise a TypeError (a bool does not count as an integer)."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, not {value!r} ({type(value).__name__}).")
    return int(value)


def require_integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int, or raise an error that names the expected range.

    Raises:
        TypeError: if the value is not an integer (a bool does not count as one).
        ValueError: if it is out of range.
    """
    number = as_integer(name, value)
    if number < minimum or (maximum is not None and number > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name} must be at least {minimum}{upper}: {value!r}.")
    return number


def require_bool(name: str, value: object) -> None:
    """Raise a TypeError unless a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")


def require_betas(name: str, value: object) -> None:
    """Raise an error unless a value is a pair of numbers of at least 0 and below 1, as Adam's betas.

    Raises:
        TypeError: if it is not a tuple of two numbers.
        ValueError: if a number is out of range.
    """
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must be a tuple of two numbers, not {value!r}.")
    for each in value:
        require_number("a beta", each, minimum=0.0, below=1.0)


def plain_number(value: object) -> int | float | None:
    """Return a real number of any kind, also an array or tensor of shape (), as an int or a float.

    None if the value is not a real number.
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def require_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise a ValueError that suggests the nearest known name, unless `name` is known."""
    if name not in (names := list(known)):
        raise ValueError(f"Unknown {kind} {name!r}.{nearest(name, names)}")


def require_name(setting: str, value: object) -> None:
    """Raise a TypeError unless a value is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{setting} must be a name, not {value!r}.")
