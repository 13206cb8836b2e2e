"""Tensors that one parameter group is drawn toward, created once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.anchors import anisotropy_factors, syre_anchor
from plasticity.optim.fan_in import NO_FAN_IN
from plasticity.optim.kernels.tensor_table import Anchors, DrawnAnchor


class Targets:
    """Tensors that the parameters of one group are drawn toward, each created on first use.

    A frozen parameter therefore takes no memory.

    Args:
        group: A parameter group of a regularized optimizer, complete.
        initial_weights: Anchors of l2-init, by parameter.
        draws: Whether kernels draw syre's anchors again at every step: then they are described, and take
            no memory.
    """

    recipe: tuple[object, ...]
    """Values that determine the tensors: if the recipe changes, they are created again."""

    indices: list[int]
    """Indices of the group's parameters that are decayed."""

    def __init__(
        self,
        group: Mapping[str, Any],
        initial_weights: Mapping[Tensor, Tensor],
        *,
        draws: bool = False,
    ) -> None:
        self.recipe = target_recipe(group)
        self.indices = [index for index in range(len(group["params"])) if has_target(group, index)]
        self._group = group
        self._initial_weights = initial_weights
        self._draws = draws and group["regularizer"] == "syre"
        self._anchors: dict[int, Any] = {}
        self._factors: dict[int, Tensor] = {}

    def anchors(self, indices: Sequence[int]) -> Anchors:
        """Return the anchors of some of the group's parameters; None where they are zero.

        Raises:
            RuntimeError: if the group was switched to l2-init after its initial weights were lost.
        """
        if has_zero_anchor(self._group) or _has_zero_mean(self._group):
            return None
        for index in indices:
            if index not in self._anchors:
                self._anchors[index] = (
                    drawn_anchor(self._group, index)
                    if self._draws
                    else make_anchor(self._group, index, self._initial_weights)
                )
        return [self._anchors[index] for index in indices]

    def factors(self, indices: Sequence[int]) -> list[Tensor] | None:
        """Return the diagonals D of Eq. 7 of some of the parameters; None where they are one."""
        if self._group["regularizer"] != "syre" or self._group["anisotropy"] == 0:
            return None
        for index in indices:
            if index not in self._factors:
                self._factors[index] = make_factors(self._group, index)
        return [self._factors[index] for index in indices]


def has_target(group: Mapping[str, Any], index: int) -> bool:
    """Return whether a group's parameter is decayed: a random anchor needs a fan-in for its scale."""
    if group["regularizer"] == "syre" and group["sigma"] > 0:
        return bool(group["fan_in"][index] != NO_FAN_IN)
    return True


def drawn_anchor(group: Mapping[str, Any], index: int) -> DrawnAnchor:
    """Return the description of the anchor of one parameter, with a target, of a syre group."""
    deviation = float(group["sigma"] / group["fan_in"][index] ** 0.5)
    return DrawnAnchor(group["anchor_seed"], group["anchor_position"] + index, deviation)


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
        return syre_anchor(parameter, **drawn_anchor(group, index)._asdict())
    return None
