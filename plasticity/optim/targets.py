"""The tensors that one parameter group is drawn toward, made once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.anchors import anisotropy_factors, syre_anchor
from plasticity.optim.fan_in import NO_FAN_IN
from plasticity.optim.kernels.tensor_table import DrawnAnchor


class Targets:
    """Tensors that the parameters of one group are drawn toward, each made when it is first asked for.

    Made so late that a frozen parameter costs nothing.

    Args:
        group: A parameter group of a regularized optimizer, complete.
        initial_weights: For l2-init, the weights to hold on to, by parameter.
    """

    recipe: tuple[object, ...]
    """Everything that the tensors are made from: another recipe, other tensors."""

    places: list[int]
    """Which of the group's parameters are decayed."""

    def __init__(self, group: Mapping[str, Any], initial_weights: Mapping[Tensor, Tensor]) -> None:
        self.recipe = target_recipe(group)
        self.places = [place for place in range(len(group["params"])) if has_target(group, place)]
        self._group = group
        self._initial_weights = initial_weights
        self._anchors: dict[int, Tensor] = {}
        self._factors: dict[int, Tensor] = {}

    def anchors(self, places: Sequence[int]) -> list[Tensor] | None:
        """Return the anchors of some of the group's parameters; None where they are zero.

        Raises:
            RuntimeError: if the group became l2-init when its initial weights were gone.
        """
        if has_zero_anchor(self._group) or _has_zero_mean(self._group):
            return None
        for place in places:
            if place not in self._anchors:
                anchor = make_anchor(self._group, place, self._initial_weights)
                assert anchor is not None
                self._anchors[place] = anchor
        return [self._anchors[place] for place in places]

    def factors(self, places: Sequence[int]) -> list[Tensor] | None:
        """Return the diagonals D of Eq. 7 of some of the parameters; None where they are one."""
        if self._group["regularizer"] != "syre" or self._group["anisotropy"] == 0:
            return None
        for place in places:
            if place not in self._factors:
                self._factors[place] = make_factors(self._group, place)
        return [self._factors[place] for place in places]


class DrawnTargets:
    """Anchors of one group that kernels draw anew at every step: `Targets` that take no memory."""

    recipe: tuple[object, ...]
    """As in `Targets`."""

    places: list[int]
    """As in `Targets`."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.recipe = target_recipe(group)
        self._drawn = [drawn_anchor(group, place) for place in range(len(group["params"]))]
        self.places = [place for place, anchor in enumerate(self._drawn) if anchor is not None]

    def anchors(self, places: Sequence[int]) -> list[DrawnAnchor]:
        """Return what a kernel draws for some of the group's parameters."""
        return [anchor for place in places if (anchor := self._drawn[place]) is not None]

    def factors(self, _places: Sequence[int]) -> None:
        """Return None: kernels know no factors."""


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
        group["anchor_position"],
        *group["fan_in"],
        *[(id(p), p.shape, p.stride(), p.device, p.dtype) for p in group["params"]],
    )


def _has_zero_mean(group: Mapping[str, Any]) -> bool:
    """Whether an anisotropic syre draws toward zero."""
    return bool(group["regularizer"] == "syre" and group["sigma"] == 0)


def make_factors(group: Mapping[str, Any], place: int) -> Tensor:
    """Make the diagonal D of Eq. 7 of one parameter of a syre group."""
    return anisotropy_factors(
        group["params"][place],
        seed=group["anchor_seed"],
        position=group["anchor_position"] + place,
        anisotropy=group["anisotropy"],
    )


@torch.no_grad()
def make_anchor(
    group: Mapping[str, Any], place: int, initial_weights: Mapping[Tensor, Tensor]
) -> Tensor | None:
    """Make the anchor of one parameter of a group; None where it is zero, or none is.

    Raises:
        RuntimeError: if the group became l2-init when its initial weights were gone.
    """
    parameter = group["params"][place]
    if group["regularizer"] == "l2-init":
        if parameter not in initial_weights:
            raise RuntimeError(
                "This group became l2-init after it was made, and its initial weights are not known:"
                " set the regularizer when the group is added."
            )
        held = initial_weights[parameter]
        same = held.device == parameter.device and held.dtype == parameter.dtype
        if same and held.stride() == parameter.stride():
            return held
        return torch.empty_like(parameter).copy_(held)
    if group["regularizer"] == "syre" and group["sigma"] > 0 and has_target(group, place):
        return syre_anchor(
            parameter,
            seed=group["anchor_seed"],
            position=group["anchor_position"] + place,
            standard_deviation=anchor_deviation(group, place),
        )
    return None
