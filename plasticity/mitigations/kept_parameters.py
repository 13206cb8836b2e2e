"""Parameters of an earlier moment, in a mitigation's state, to run the network with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity.mitigations.context import Context


def copies(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return copies of parameters or buffers without a graph, for a state, by their names behind a prefix.

    Shape of each: (..., *shape).
    """
    return {f"{prefix}{name}": each.detach().clone() for name, each in tensors.items()}


def kept_parameters(context: Context, prefix: str) -> dict[str, Tensor]:
    """Return the parameters that the state holds behind a prefix, by name. Shape of each: (..., *shape)."""
    return {name: context.state[f"{prefix}{name}"] for name in context.parameters}


def keep_parameters(context: Context, prefix: str) -> None:
    """Put the parameters as they are in the place of those behind a prefix."""
    kept = [*kept_parameters(context, prefix).values()]
    torch._foreach_copy_(kept, [*context.parameters.values()])
