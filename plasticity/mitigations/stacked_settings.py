"""Settings of one mitigation in R stacked networks, as one object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from plasticity.mitigations.base import Mitigation

_Kind = TypeVar("_Kind", bound=Mitigation)

STEP_HOOKS = (
    "initial_state",
    "penalty",
    "before_step",
    "after_step",
    "boundary",
    "evaluation_parameters",
)
"""Hooks that are called while the network is trained."""


def overrides(mitigation: Mitigation, hook: str) -> bool:
    """Return whether a mitigation has a hook of its own."""
    return getattr(type(mitigation), hook) is not getattr(Mitigation, hook)


def acts_on_steps(mitigation: Mitigation) -> bool:
    """Return whether a mitigation has a hook that is called while the network is trained."""
    return any(overrides(mitigation, hook) for hook in STEP_HOOKS)


def stack_key(method: Sequence[Mitigation]) -> str:
    """Return a text that is equal for methods whose networks can be stacked with each other.

    Decays can be stacked with each other and with no decay. Mitigations that change the network's
    architecture must be equal, and those that act while it is trained must be of one kind, in one order,
    with equal settings except for floats.
    """
    parts: list[Any] = []
    for each in method:
        settings = asdict(each)
        if overrides(each, "network"):
            parts.append([each.name, settings])
        elif acts_on_steps(each):
            parts.append(
                [each.name, {k: v for k, v in settings.items() if not isinstance(v, float)}]
            )
    return json.dumps(parts, sort_keys=True)


def stack_settings(settings: Sequence[_Kind], like: Tensor) -> _Kind:
    """Return one object with the settings of R mitigations of one kind.

    Args:
        settings: One for each stacked network.
        like: Tensor whose device and dtype the settings get: a parameter of the networks.

    Returns:
        The mitigation itself if all are equal; else one whose differing fields are tensors. Shape: (R,).

    Raises:
        ValueError: if the kinds differ, or a field differs that does not hold floats.
    """
    first = settings[0]
    if any(type(each) is not type(first) for each in settings):
        names = ", ".join(each.name for each in settings)
        raise ValueError(
            f"The mitigations of stacked networks must be of one kind: {names}. Stack each kind apart."
        )
    if all(each == first for each in settings):
        return first
    stacked = object.__new__(type(first))
    for each in fields(first):
        values = [getattr(one, each.name) for one in settings]
        value: Any = values[0]
        if any(one != value for one in values):
            if not all(isinstance(one, float) for one in values):
                raise ValueError(
                    f"{first.name}.{each.name} must be equal in all stacked networks, not {values}: only"
                    " floats may differ. Stack those with equal values."
                )
            value = torch.tensor(values, dtype=like.dtype, device=like.device)
        object.__setattr__(stacked, each.name, value)
    return stacked
