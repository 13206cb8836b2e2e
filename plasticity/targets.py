"""The tensors that one parameter group is drawn toward, made once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity.anchors import anisotropy_factors, syre_anchor
from plasticity.groups import NO_FAN_IN
from plasticity.tensor_table import DrawnAnchor


@dataclass(frozen=True)
class Targets:
    """What the parameters of one group are drawn toward."""

    recipe: tuple[object, ...]
    """Everything that the tensors were made from: another recipe, other tensors."""

    places: list[int]
    """Which of the group's parameters are decayed."""

    anchors: list[Tensor | None]
    """One tensor for each parameter; None where the anchor is zero."""

    factors: list[Tensor] | None
    """The diagonal D of Eq. 7, one tensor for each parameter, or None for one."""


@dataclass(frozen=True)
class DrawnTargets:
    """What the parameters of one group are drawn toward, if kernels draw it anew at every step."""

    recipe: tuple[object, ...]
    """As of `Targets`."""

    places: list[int]
    """As of `Targets`."""

    anchors: list[DrawnAnchor | None]
    """One for each parameter; None where it is not decayed."""

    factors: None = None
    """Kernels know none."""


def has_target(group: Mapping[str, Any], place: int) -> bool:
    """Whether a group's parameter is decayed: a random anchor needs a fan-in for its scale."""
    if group["regularizer"] == "syre" and group["sigma"] > 0:
        return bool(group["fan_in"][place] != NO_FAN_IN)
    return True


def anchor_deviation(group: Mapping[str, Any], place: int) -> float:
    """Standard deviation of the anchor of a parameter that has a fan-in, sigma / sqrt(fan-in)."""
    return float(group["sigma"] / group["fan_in"][place] ** 0.5)


def drawn_anchor(group: Mapping[str, Any], place: int) -> DrawnAnchor | None:
    """What a kernel draws for one parameter of a syre group; None if it has no target."""
    if not has_target(group, place):
        return None
    position = group["anchor_position"] + place
    return DrawnAnchor(group["anchor_seed"], position, anchor_deviation(group, place))


def has_zero_anchor(group: Mapping[str, Any]) -> bool:
    """Whether a group's decay is plain weight decay."""
    isotropic_zero = group["sigma"] == 0 and group["anisotropy"] == 0
    return bool(
        group["regularizer"] == "weight-decay"
        or (group["regularizer"] == "syre" and isotropic_zero)
    )


def target_recipe(group: Mapping[str, Any]) -> tuple[object, ...]:
    """What the targets of a group depend on, cheap enough to be asked for at every step."""
    return (
        group["regularizer"],
        group["anchor_seed"],
        group["sigma"],
        group["anisotropy"],
        *group["fan_in"],
        *[(id(p), p.shape, p.stride(), p.device, p.dtype) for p in group["params"]],
    )


@torch.no_grad()
def make_targets(group: Mapping[str, Any], initial_weights: Mapping[Tensor, Tensor]) -> Targets:
    """Make the anchors and factors of a group.

    Args:
        group: A parameter group of a regularized optimizer, complete.
        initial_weights: For l2-init, the weights to hold on to, by parameter.

    Raises:
        RuntimeError: if the group became l2-init when its initial weights were gone.
    """
    first_position = group["anchor_position"]
    anchors = [make_anchor(group, place, initial_weights) for place in range(len(group["params"]))]
    factors = None
    if group["regularizer"] == "syre" and group["anisotropy"] > 0:
        factors = [
            anisotropy_factors(
                parameter,
                seed=group["anchor_seed"],
                position=first_position + place,
                anisotropy=group["anisotropy"],
            )
            for place, parameter in enumerate(group["params"])
        ]
    places = [place for place in range(len(anchors)) if has_target(group, place)]
    return Targets(target_recipe(group), places, anchors, factors)


def make_drawn_targets(group: Mapping[str, Any]) -> DrawnTargets:
    """Say what a kernel draws for the parameters of a syre group with sigma > 0."""
    every = [drawn_anchor(group, place) for place in range(len(group["params"]))]
    places = [place for place, anchor in enumerate(every) if anchor is not None]
    return DrawnTargets(target_recipe(group), places, every)


@torch.no_grad()
def make_anchor(
    group: Mapping[str, Any], place: int, initial_weights: Mapping[Tensor, Tensor]
) -> Tensor | None:
    """Make the anchor of one parameter of a group; None where it is zero, or none is.

    Raises:
        RuntimeError: as `make_targets`.
    """
    parameter = group["params"][place]
    if group["regularizer"] == "l2-init":
        if parameter not in initial_weights:
            raise RuntimeError(
                "This group became l2-init after it was made, and its initial weights are not known:"
                " set the regularizer when the group is added."
            )
        return torch.empty_like(parameter).copy_(initial_weights[parameter])
    if group["regularizer"] == "syre" and group["sigma"] > 0 and has_target(group, place):
        return syre_anchor(
            parameter,
            seed=group["anchor_seed"],
            position=group["anchor_position"] + place,
            standard_deviation=anchor_deviation(group, place),
        )
    return None
