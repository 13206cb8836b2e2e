"""Which parameters are decayed, and the fan-in that scales each one's anchor."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.settings import RegularizerSettings, require_integer

logger = logging.getLogger("plasticity")

NORMALIZATION_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # every batch and instance normalisation
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose affine parameters `parameter_groups` leaves alone unless asked."""

NO_FAN_IN = 0
"""Stands in a group's `fan_in` for a parameter that has none, so that syre leaves it alone."""


def weight_fan_in(weight: Tensor) -> int | None:
    """Inputs of one unit, by torch's convention: `size(1)` times the receptive field.

    Args:
        weight: Shape: (units, inputs, ...); a vector or scalar has no fan-in of its own.

    Returns:
        The fan-in, at least 1; None for a tensor of fewer than two dimensions.
    """
    return max(1, math.prod(weight.shape[1:])) if weight.dim() >= 2 else None


def flat_fan_in(parameters: Iterable[Tensor]) -> list[int]:
    """Fan-in of each parameter in a flat list: a vector takes that of the weight before it.

    Returns:
        One number for each parameter; `NO_FAN_IN` for a vector before any weight (a Stable-Baselines3
        policy's `log_std`, say).
    """
    found: list[int] = []
    latest = NO_FAN_IN
    for parameter in parameters:
        latest = weight_fan_in(parameter) or latest
        found.append(latest)
    return found


def checked_fan_in(given: object, count: int) -> list[int]:
    """Return the `fan_in` that a user gave, one number for each of `count` parameters.

    Raises:
        TypeError: if it is neither an integer nor a list of integers.
        ValueError: if a number is under 1 (0 means: leave alone), or their count is off.
    """
    if not isinstance(given, (list, tuple)):
        return [require_integer("fan_in", given, minimum=1)] * count
    if len(given) != count:
        raise ValueError(
            f"fan_in has {len(given)} entries for {count} parameters: give one for each, or one integer."
        )
    return [require_integer("fan_in", entry, minimum=NO_FAN_IN) for entry in given]


def parameter_groups(
    model: nn.Module,
    *,
    regularizer: str,
    strength: float,
    sigma: float = RegularizerSettings.sigma,
    anisotropy: float = RegularizerSettings.anisotropy,
    decoupled: bool | None = None,
    anchor_seed: int | None = None,
    include_normalization: bool = False,
) -> list[dict[str, Any]]:
    """Split a model's parameters into a regularized group and one that is left alone.

    Left alone are the affine parameters of normalisation layers, and vectors and scalars that
    belong to no layer with a weight (a policy's `log_std`, a learnt temperature). What each group
    got is logged at level INFO under the logger "plasticity" and told by `describe_groups`. All rows
    of an embedding are regularized, that of its `padding_idx` too: put such a layer into a group of
    its own if that row must stay zero.

    Args:
        model: Any module. Shared parameters are taken once, under their first name.
        regularizer: "none", "weight-decay", "syre" or "l2-init".
        strength: Of torch's `weight_decay`.
        sigma: Spread of syre's anchor, relative to the usual initialisation.
        anisotropy: Of syre's Eq. 7.
        decoupled: As in `regularized`.
        anchor_seed: As in `regularized`.
        include_normalization: Regularize normalisation layers too; their fan-in counts as 1.

    Returns:
        Parameter groups for a regularized optimizer; an empty group is left out. Several models go
        into one optimizer as `[*parameter_groups(trunk, …), *parameter_groups(head, …)]`.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range, or the model has no parameters.
    """
    settings = RegularizerSettings(regularizer, strength, sigma, anisotropy, decoupled, anchor_seed)
    fan_in = model_fan_in(model, include_normalization=include_normalization)
    if not fan_in:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to optimize.")
    decayed = [parameter for parameter, inputs in fan_in.items() if inputs != NO_FAN_IN]
    alone = [parameter for parameter, inputs in fan_in.items() if inputs == NO_FAN_IN]
    common = {
        name: getattr(settings, name)
        for name in ("sigma", "anisotropy", "decoupled", "anchor_seed")
    }
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append(
            {"params": decayed, "regularizer": regularizer, "strength": strength}
            | common
            | {"fan_in": [fan_in[parameter] for parameter in decayed]}
        )
    if alone:
        groups.append({"params": alone, "regularizer": "none", "strength": 0.0})
    logger.info("%s", describe_groups(groups))
    return groups


def model_fan_in(
    model: nn.Module, *, include_normalization: bool = False
) -> dict[nn.Parameter, int]:
    """Fan-in of every parameter of a model, by the layer that it belongs to.

    Args:
        model: Any module. A shared parameter counts as its first owner's.
        include_normalization: Count the fan-in of a normalisation layer's parameters as 1.

    Returns:
        In the order of `model.parameters()`; `NO_FAN_IN` for what is to be left alone: parameters
        of normalisation layers, and vectors that belong to no layer with a weight.
    """
    found: dict[nn.Parameter, int] = {}
    for module in model.modules():
        parameters = [p for p in module.parameters(recurse=False) if p not in found]
        if isinstance(module, NORMALIZATION_LAYERS):
            fan_in = [1 if include_normalization else NO_FAN_IN] * len(parameters)
        else:
            fan_in = _module_fan_in(module, parameters)
        found.update(zip(parameters, fan_in, strict=True))
    return found


def _module_fan_in(module: nn.Module, parameters: Sequence[Tensor]) -> list[int]:
    """Fan-in within one module: a vector takes that of the module's weight."""
    # The weight need not be among `parameters`: a tied layer's bias belongs to it all the same.
    own = list(module.parameters(recurse=False))
    for parametrized in getattr(module, "parametrizations", {}).values():
        own += parametrized.parameters()  # where torch keeps the weight of such a layer
    # The largest: a weight norm's length beside its direction has one input only.
    first = max((weight_fan_in(p) or NO_FAN_IN for p in own), default=NO_FAN_IN)
    return [
        inputs or first if p.dim() >= 2 else first
        for p, inputs in zip(parameters, flat_fan_in(parameters), strict=True)
    ]


def describe_groups(groups: Sequence[dict[str, Any]] | Optimizer) -> str:
    """Say in one line per group how it is regularized and how much it holds.

    Args:
        groups: Of `parameter_groups`, a regularized optimizer, or its `param_groups`.
    """
    if isinstance(groups, Optimizer):
        groups = groups.param_groups
    return "\n".join(
        f"group {index}{_name_of(group)}: {_describe(group)}" for index, group in enumerate(groups)
    )


def _name_of(group: dict[str, Any]) -> str:
    return f" ({group['name']})" if "name" in group else ""


def _describe(group: dict[str, Any]) -> str:
    parameters: list[Tensor] = list(group["params"])
    regularizer = group.get("regularizer", "none")
    text = f"{regularizer}, {_amount(parameters)}"
    if regularizer == "none":
        return text
    text += f", strength {group['strength']:g}"
    if regularizer != "syre":
        return text
    text += f", sigma {group['sigma']:g}"
    fan_in = group.get("fan_in") or flat_fan_in(parameters)
    undecayed = [p for p, inputs in zip(parameters, fan_in, strict=True) if inputs == NO_FAN_IN]
    borrowed = [p for p, inputs in zip(parameters, fan_in, strict=True) if inputs and p.dim() < 2]
    if borrowed:
        text += f"; {_amount(borrowed)} in vectors take the fan-in of their layer's weight"
    if undecayed and group["sigma"] > 0:
        text += f"; not decayed: {_amount(undecayed)} in vectors before any weight"
    return text


def _amount(parameters: Sequence[Tensor]) -> str:
    elements = sum(parameter.numel() for parameter in parameters)
    tensors = len(parameters)
    return (
        f"{tensors} tensor{'s' * (tensors != 1)} with {elements:,} parameter{'s' * (elements != 1)}"
    )


def require_real(parameter: Tensor) -> None:
    """Refuse parameters that an anchor cannot be drawn for.

    Raises:
        TypeError: if the parameter is complex or not floating-point.
    """
    if not torch.is_floating_point(parameter):
        raise TypeError(
            f"Only real floating-point parameters can be regularized, not {parameter.dtype}:"
            ' put this parameter into a group of its own with "regularizer": "none".'
        )
