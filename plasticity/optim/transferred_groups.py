"""Groups that are handed on from one regularized optimizer to another, as `optimizer.param_groups`.

Such a group has only plain values in it. What its optimizer knows beside them, the weights that l2-init
holds on to and which parameters have been replaced, is asked of that optimizer while it lives.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

LIVING: Any = WeakSet()
"""Every regularized optimizer that is still in use."""


def sources_of(group: Mapping[str, Any]) -> list[tuple[Any, int]]:
    """Find the optimizers that a handed-on group may come from, and its index in each.

    The group itself, or a shallow copy, has the very list of one of them. A list of its own may
    have been copied from any optimizer over these parameters.
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
    """Return what l2-init holds a parameter to, in the optimizers that its group may come from.

    Returns:
        None if none of them holds it yet: it was frozen until now.

    Raises:
        ValueError: if they hold it to different weights.
    """
    found = [w for each in holders if (w := each._initial_weights.get(parameter)) is not None]
    if any(not torch.equal(found[0], other) for other in found[1:]):
        raise ValueError(
            f"{len(found)} optimizers hold a parameter of shape {tuple(parameter.shape)} to different"
            " initial weights (l2-init), and the copy of a group does not say which one it comes from:"
            " hand on the group itself (optimizer.param_groups), or give"
            " initial_weights={parameter: weights}."
        )
    return found[0] if found else None
