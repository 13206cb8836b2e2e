"""Nested dictionaries, lists and tuples: a function of all their leaves, and floats as JSON has them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the leaves of nested dictionaries, lists and tuples; a batch object is one leaf.

    Args:
        function: Takes a leaf and returns what replaces it.
        value: Containers, which are not changed, or a leaf by itself.
    """
    if isinstance(value, Tensor) or hasattr(value, "to"):
        return function(value)
    if isinstance(value, MutableMapping) and type(value) is not dict:
        copied = copy.copy(value)
        for key, entry in value.items():
            copied[key] = mapped(function, entry)
        return copied
    if isinstance(value, Mapping):
        return {key: mapped(function, entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [mapped(function, entry) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return function(value)


def finite_or_none(value: object) -> object:
    """Return None for NaN and infinity, which JSON does not have, and any other value as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
