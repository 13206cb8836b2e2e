"""Groups passed from one regularized optimizer to another, as `optimizer.param_groups`.

Such a group contains only plain values. Anything else, the anchors of l2-init and the record of replaced
parameters, is looked up in the optimizer that it comes from, while that still exists.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

LIVING: Any = WeakSet()
"""All regularized optimizers that still exist."""


def sources_of(group: Mapping[str, Any]) -> list[tuple[Any, int]]:
    """Find the optimizers that a group may come from, and its index in each.

    The group itself, or a shallow copy, contains the same list object as one of them. A different list
    may have been copied from any optimizer over these parameters.
    """
    parameters = group["params"]
    if not isinstance(parameters, list):
        return []
    same = []
    for optimizer in LIVING:
        for index, own in enumerate(optimizer.param_groups):
            if own["params"] is parameters:
                return [(optimizer, index)]
            if len(own["params"]) == len(parameters) and all(
                map(operator.is_, own["params"], parameters)
            ):
                same.append((optimizer, index))
    return same


def held_weights(parameter: Tensor, holders: Sequence[Any]) -> Tensor | None:
    """Return l2-init's anchor of a parameter, from the optimizers that its group may come from.

    Returns:
        The anchor; None if no optimizer has one yet, because the parameter was frozen until now.

    Raises:
        ValueError: if their anchors differ.
    """
    found = [w for each in holders if (w := each._initial_weights.get(parameter)) is not None]
    if any(not torch.equal(found[0], other) for other in found[1:]):
        raise ValueError(
            f"{len(found)} optimizers anchor a parameter of shape {tuple(parameter.shape)} to different"
            " initial weights (l2-init), and the copy of a group does not say which one it comes from:"
            " pass the group itself (optimizer.param_groups), or give"
            " initial_weights={parameter: weights}."
        )
    return found[0] if found else None
