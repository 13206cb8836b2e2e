"""Parameter groups of a model: the choice of the regularized parameters, and descriptions of groups."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.checks import require_integer
from plasticity.optim.fan_in import NO_FAN_IN, Layout, flat_fan_in, model_layouts
from plasticity.optim.parameter_names import matching_parameters, parameter_names, pattern_list
from plasticity.optim.settings import RegularizerSettings

logger = logging.getLogger("plasticity")

MAX_NAMES = 6
"""Number of names that a message lists before it counts the rest."""


def checked_fan_in(given: object, count: int) -> list[int]:
    """Return a user's `fan_in` as a list with one number for each of `count` parameters.

    Raises:
        TypeError: if it is neither an integer nor a list of integers.
        ValueError: if a single number is below 1, an entry of a list is below 0 (0: not decayed), or the
            list has the wrong length.
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
    exclude: str | Iterable[str] = (),
    exclude_biases: bool = False,
    fan_in: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's parameters into a group that is regularized and one that is not.

    Not regularized are the affine parameters of normalisation layers, vectors and scalars that belong to
    no layer with a weight (a policy's `log_std`, a layer scale), frozen integers (of a quantised
    layer), and excluded parameters. The content of each group is logged at level INFO under the logger
    "plasticity" and returned by `describe_groups`. All rows of an embedding are regularized, including
    that of its `padding_idx`: exclude such a layer if that row must stay zero.

    The fan-in of each parameter is that of its layer: see `plasticity.optim.fan_in.model_layouts`, which
    knows torch's layers, transformers' transposed `Conv1D`, embeddings, and tokens by their names. A
    parameter of two or more dimensions that is none of these gets the fan-in of torch's convention,
    `size(1)` times the receptive field, or its last size if it has three or more dimensions and the
    first is 1. The group then lists it under "unknown_layouts", `describe_groups` reports it, and under
    syre with sigma > 0 a warning names it: give `fan_in`.

    Args:
        model: Any module. Shared parameters are included once.
        regularizer: "none", "weight-decay", "syre" or "l2-init".
        strength: Strength in the sense of torch's `weight_decay`.
        sigma: Spread of syre's anchor, relative to the usual initialisation.
        anisotropy: Standard deviation of the per-coordinate factors of syre's Eq. 7.
        decoupled: As in `regularized`.
        anchor_seed: As in `regularized`.
        include_normalization: Regularize normalisation layers too; their fan-in counts as 1.
        exclude: Patterns in the syntax of `fnmatch` for names as in `model.named_parameters()`:
            `["head.*", "*.bias"]`. A tied parameter is excluded by any of its names. The names of a
            wrapped model (compiled, data-parallel) also match without the wrapper's prefix.
        exclude_biases: Do not regularize the biases of any layer, normalisation layers included.
        fan_in: Fan-ins, at least 1, by pattern: `{"*.w_in": 256}`. A bias follows its weight, and a
            vector that would not be regularized for lack of a fan-in is regularized with the given one.

    Returns:
        Parameter groups for a regularized optimizer; an empty group is left out. Several models go
        into one optimizer as `[*parameter_groups(trunk, …), *parameter_groups(head, …)]`.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range, the model has no parameters, a pattern matches none
            (the message names the nearest), two patterns give one parameter different fan-ins, or a
            lazy layer has no shape yet.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = parameter_groups(model, regularizer="syre", strength=1e-3, sigma=0.3)
        >>> [(group["regularizer"], len(group["params"])) for group in groups]
        [('syre', 4), ('none', 2)]
    """
    settings = RegularizerSettings(regularizer, strength, sigma, anisotropy, decoupled, anchor_seed)
    members = choose_members(
        model,
        include_normalization=include_normalization,
        exclude=exclude,
        exclude_biases=exclude_biases,
        fan_in=fan_in,
    )
    groups = make_groups(members, settings)
    report_groups(groups, members, settings)
    return groups


@dataclass(frozen=True)
class Member:
    """Parameter of a model, with the information that decides on its group."""

    name: str
    """First name of the parameter, without the prefixes of wrappers."""

    parameter: nn.Parameter
    """Parameter itself."""

    layout: Layout
    """Kind and fan-in of the parameter."""

    is_regularized: bool
    """Whether the parameter is decayed at all."""


def choose_members(
    model: nn.Module,
    *,
    include_normalization: bool,
    exclude: str | Iterable[str],
    exclude_biases: bool,
    fan_in: Mapping[str, int] | None,
) -> list[Member]:
    """Determine for every parameter of a model its layout and whether it is regularized.

    Args:
        model: As in `parameter_groups`, like the other arguments.
        include_normalization: Regularize normalisation layers.
        exclude: Patterns of names.
        exclude_biases: Do not regularize biases.
        fan_in: Fan-ins by pattern.

    Returns:
        One member for each parameter, in the order of `model.parameters()`.

    Raises:
        TypeError: as `parameter_groups`.
        ValueError: as `parameter_groups`.
    """
    names = parameter_names(model)
    if not names:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to optimize.")
    layouts = model_layouts(model, _given_fan_in(fan_in, names))
    excluded = {
        parameter
        for pattern in pattern_list("exclude", exclude)
        for parameter in matching_parameters("exclude", pattern, names)
    }
    members = []
    for parameter, layout in layouts.items():
        is_excluded = (
            parameter in excluded
            or layout.fan_in == NO_FAN_IN
            or _is_quantized(parameter)
            or (layout.kind == "normalization" and not include_normalization)
            or (layout.is_bias and exclude_biases)
        )
        members.append(Member(names[parameter][0], parameter, layout, not is_excluded))
    return members


def _is_quantized(parameter: Tensor) -> bool:
    """Return whether a parameter is frozen and holds integers, like the weights of 8-bit layers."""
    return not (parameter.requires_grad or parameter.is_floating_point() or parameter.is_complex())


def _given_fan_in(
    fan_in: Mapping[str, int] | None, names: dict[nn.Parameter, list[str]]
) -> dict[nn.Parameter, int]:
    if fan_in is None:
        return {}
    if not isinstance(fan_in, Mapping):
        raise TypeError(
            'fan_in must map patterns of parameter names to integers, such as {"*.w_in": 256},'
            f" not {fan_in!r}."
        )
    found: dict[nn.Parameter, int] = {}
    for pattern in pattern_list("fan_in", fan_in):
        value = require_integer(f"fan_in[{pattern!r}]", fan_in[pattern], minimum=1)
        for parameter in matching_parameters("fan_in", pattern, names):
            if found.setdefault(parameter, value) != value:
                raise ValueError(
                    f"fan_in gives {names[parameter][0]!r} both {found[parameter]} and {value}: give"
                    " patterns that match different parameters."
                )
    return found


def make_groups(members: Sequence[Member], settings: RegularizerSettings) -> list[dict[str, Any]]:
    """Return a group that is regularized and one that is not; an empty group is left out."""
    decayed = [member for member in members if member.is_regularized]
    others = [member for member in members if not member.is_regularized]
    groups: list[dict[str, Any]] = []
    if decayed:
        group = {"params": [member.parameter for member in decayed], **asdict(settings)}
        group["fan_in"] = [member.layout.fan_in for member in decayed]
        unknown = [member.name for member in decayed if member.layout.kind == "unknown"]
        groups.append(group | ({"unknown_layouts": unknown} if unknown else {}))
    if others:
        parameters = [member.parameter for member in others]
        groups.append({"params": parameters, "regularizer": "none", "strength": 0.0})
    return groups


def report_groups(
    groups: Sequence[dict[str, Any]], members: Sequence[Member], settings: RegularizerSettings
) -> None:
    """Log the content of the groups, and warn of unknown layouts where anchors depend on them."""
    logger.info("%s", describe_groups(groups))
    warn_of_unknown_layouts([member for member in members if member.is_regularized], settings)


def warn_of_unknown_layouts(members: Sequence[Member], settings: RegularizerSettings) -> None:
    """Log a warning that names the parameters whose anchors are scaled by a guessed fan-in, if any.

    Args:
        members: The regularized parameters of one group.
        settings: Settings of the group: anchors are scaled under syre with sigma > 0.
    """
    unknown = [
        f"{member.name} {tuple(member.parameter.shape)} gets {member.layout.fan_in}"
        for member in members
        if member.layout.kind == "unknown"
    ]
    if unknown and settings.regularizer == "syre" and settings.sigma > 0:
        logger.warning(
            "The layout of %d parameter%s is not known, and syre's anchors are scaled by a guessed"
            ' fan-in: %s. Give parameter_groups fan_in={"pattern": inputs of one unit}, or set'
            " in_features and out_features on the module of a matrix.",
            len(unknown),
            "s" * (len(unknown) != 1),
            listed(unknown),
        )


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list and the number of the remaining ones; "none" if it is empty."""
    more = len(names) - MAX_NAMES
    return (", ".join(names[:MAX_NAMES]) or "none") + (f" and {more} more" if more > 0 else "")


def describe_groups(groups: Sequence[dict[str, Any]] | Optimizer) -> str:
    """Describe in one line per group its regularizer and its number of parameters.

    Args:
        groups: Groups made by `parameter_groups`, a regularized optimizer, or its `param_groups`.

    Examples:
        >>> groups = parameter_groups(nn.Linear(4, 2), regularizer="weight-decay", strength=1e-3)
        >>> "10 parameters" in describe_groups(groups)
        True
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
    if group.get("unknown_layouts"):
        text += f"; of unknown layout, with a guessed fan-in: {listed(group['unknown_layouts'])}"
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
    """Raise an error unless an anchor can be drawn for a parameter.

    Raises:
        TypeError: if the parameter is complex or not floating-point.
    """
    if not torch.is_floating_point(parameter):
        raise TypeError(
            f"Only real floating-point parameters can be regularized, not {parameter.dtype}:"
            ' put this parameter into a group of its own with "regularizer": "none".'
        )
