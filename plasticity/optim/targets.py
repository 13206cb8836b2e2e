"""Tensors that one parameter group is drawn toward, created once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.anchors import anisotropy_factors, syre_anchor
from plasticity.optim.fan_in import NO_FAN_IN
from plasticity.optim.kernels.tensor_table import DrawnAnchor


class Targets:
    """Tensors that the parameters of one group are drawn toward, each created on first use.

    A frozen parameter therefore takes no memory.

    Args:
        group: A parameter group of a regularized optimizer, complete.
        initial_weights: Anchors of l2-init, by parameter.
    """

    recipe: tuple[object, ...]
    """Values that determine the tensors: if the recipe changes, they are created again."""

    indices: list[int]
    """Indices of the group's parameters that are decayed."""

    def __init__(self, group: Mapping[str, Any], initial_weights: Mapping[Tensor, Tensor]) -> None:
        self.recipe = target_recipe(group)
        self.indices = [index for index in range(len(group["params"])) if has_target(group, index)]
        self._group = group
        self._initial_weights = initial_weights
        self._anchors: dict[int, Tensor] = {}
        self._factors: dict[int, Tensor] = {}

    def anchors(self, indices: Sequence[int]) -> list[Tensor] | None:
        """Return the anchors of some of the group's parameters; None where they are zero.

        Raises:
            RuntimeError: if the group was switched to l2-init after its initial weights were lost.
        """
        if has_zero_anchor(self._group) or _has_zero_mean(self._group):
            return None
        for index in indices:
            if index not in self._anchors:
                anchor = make_anchor(self._group, index, self._initial_weights)
                assert anchor is not None
                self._anchors[index] = anchor
        return [self._anchors[index] for index in indices]

    def factors(self, indices: Sequence[int]) -> list[Tensor] | None:
        """Return the diagonals D of Eq. 7 of some of the parameters; None where they are one."""
        if self._group["regularizer"] != "syre" or self._group["anisotropy"] == 0:
            return None
        for index in indices:
            if index not in self._factors:
                self._factors[index] = make_factors(self._group, index)
        return [self._factors[index] for index in indices]


class DrawnTargets:
    """Anchors of one group that kernels draw again at every step: `Targets` without memory."""

    recipe: tuple[object, ...]
    """Values that determine the anchors, as in `Targets`."""

    indices: list[int]
    """Indices of the group's parameters that are decayed."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.recipe = target_recipe(group)
        self._drawn = [drawn_anchor(group, index) for index in range(len(group["params"]))]
        self.indices = [index for index, anchor in enumerate(self._drawn) if anchor is not None]

    def anchors(self, indices: Sequence[int]) -> list[DrawnAnchor]:
        """Return descriptions of the anchors that a kernel draws for some of the group's parameters."""
        return [anchor for index in indices if (anchor := self._drawn[index]) is not None]

    def factors(self, _indices: Sequence[int]) -> None:
        """Return None: kernels support no factors."""


def has_target(group: Mapping[str, Any], index: int) -> bool:
    """Return whether a group's parameter is decayed: a random anchor needs a fan-in for its scale."""
    if group["regularizer"] == "syre" and group["sigma"] > 0:
        return bool(group["fan_in"][index] != NO_FAN_IN)
    return True


def anchor_deviation(group: Mapping[str, Any], index: int) -> float:
    """Return the standard deviation of the anchor of a parameter with a fan-in: sigma / sqrt(fan-in)."""
    return float(group["sigma"] / group["fan_in"][index] ** 0.5)


def drawn_anchor(group: Mapping[str, Any], index: int) -> DrawnAnchor | None:
    """Return the anchor that a kernel draws for one parameter of a syre group; None without a target."""
    if not has_target(group, index):
        return None
    position = group["anchor_position"] + index
    return DrawnAnchor(group["anchor_seed"], position, anchor_deviation(group, index))


def has_zero_anchor(group: Mapping[str, Any]) -> bool:
    """Return whether a group's decay is plain weight decay."""
    isotropic_zero = group["sigma"] == 0 and group["anisotropy"] == 0
    return bool(
        group["regularizer"] == "weight-decay"
        or (group["regularizer"] == "syre" and isotropic_zero)
    )


def target_recipe(group: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the values that a group's targets depend on, cheap enough to compare at every step."""
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
    """Return whether an anisotropic syre draws toward zero."""
    return bool(group["regularizer"] == "syre" and group["sigma"] == 0)


def make_factors(group: Mapping[str, Any], index: int) -> Tensor:
    """Draw the diagonal D of Eq. 7 for one parameter of a syre group."""
    return anisotropy_factors(
        group["params"][index],
        seed=group["anchor_seed"],
        position=group["anchor_position"] + index,
        anisotropy=group["anisotropy"],
    )


@torch.no_grad()
def make_anchor(
    group: Mapping[str, Any], index: int, initial_weights: Mapping[Tensor, Tensor]
) -> Tensor | None:
    """Return the anchor of one parameter of a group; None where it is zero, or there is none.

    Raises:
        RuntimeError: if the group was switched to l2-init after its initial weights were lost.
    """
    parameter = group["params"][index]
    if group["regularizer"] == "l2-init":
        if parameter not in initial_weights:
            raise RuntimeError(
                "This group was switched to l2-init after it was added, and its initial weights are not"
                " known: set the regularizer when the group is added."
            )
        held = initial_weights[parameter]
        same = held.device == parameter.device and held.dtype == parameter.dtype
        if same and held.stride() == parameter.stride():
            return held
        return torch.empty_like(parameter).copy_(held)
    if group["regularizer"] == "syre" and group["sigma"] > 0 and has_target(group, index):
        return syre_anchor(
            parameter,
            seed=group["anchor_seed"],
            position=group["anchor_position"] + index,
            standard_deviation=anchor_deviation(group, index),
        )
    return None
