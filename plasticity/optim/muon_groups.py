"""Parameter groups for two optimizers: a model's hidden matrices for Muon, the rest for AdamW."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from plasticity.optim.parameter_groups import (
    Member,
    choose_members,
    listed,
    make_groups,
    report_groups,
)
from plasticity.optim.parameter_names import matching_parameters, parameter_names, pattern_list
from plasticity.optim.settings import RegularizerSettings

logger = logging.getLogger("plasticity")

OUTPUT_LAYERS = ("head", "lm_head", "classifier", "score", "action_net", "value_net")
"""Names of layers that produce a network's output, at any position in it."""


def muon_parameter_groups(
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
    adamw: str | Iterable[str] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split a model's parameters between Muon, which takes hidden matrices, and AdamW.

    Muon (Jordan et al., 2024) gets the two-dimensional weights of hidden layers. AdamW gets the parameters
    that Muon's authors assign to it: embeddings and tokens, the output layer, biases and other vectors,
    normalisation layers; and those that Muon does not take: kernels of convolutions, and matrices of
    unknown layout unless `fan_in` specifies it. The output layers that were found are logged at INFO::

        matrices, others = muon_parameter_groups(model, regularizer="syre", strength=0.01)
        muon = regularized(torch.optim.Muon)(matrices, lr=0.02)
        adamw = regularized(torch.optim.AdamW)(others, lr=3e-4)

    Under syre, the groups for AdamW give the position at which their anchors begin ("anchor_position"),
    after those of Muon: with one `anchor_seed`, no two parameters share an anchor.

    Args:
        model: As in `parameter_groups`, like all other arguments except the last.
        regularizer: "none", "weight-decay", "syre" or "l2-init".
        strength: Strength in the sense of torch's `weight_decay`.
        sigma: Spread of syre's anchor, relative to the usual initialisation.
        anisotropy: Standard deviation of the per-coordinate factors of syre's Eq. 7.
        decoupled: As in `regularized`.
        anchor_seed: As in `regularized`.
        include_normalization: Regularize normalisation layers too.
        exclude: Patterns of names that are not regularized; they are trained all the same.
        exclude_biases: Do not regularize biases.
        fan_in: Fan-ins by pattern.
        adamw: Patterns of names that go to AdamW, above all the output layer's: "3.weight". None: the
            last matrix in the order of `model.named_parameters()` and those of layers called "head",
            "lm_head", "classifier", "score", "action_net" or "value_net". An empty list: no output layer.

    Returns:
        Groups for Muon, and groups for AdamW; the second list is empty if Muon takes every parameter.

    Raises:
        TypeError: as `parameter_groups`.
        ValueError: as `parameter_groups`, or if nothing is left for Muon.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> muon, adamw = muon_parameter_groups(model, regularizer="syre", strength=1e-3, sigma=0.3)
        >>> [tuple(parameter.shape) for group in muon for parameter in group["params"]]
        [(8, 4), (8, 8)]
    """
    settings = RegularizerSettings(regularizer, strength, sigma, anisotropy, decoupled, anchor_seed)
    members = choose_members(
        model,
        include_normalization=include_normalization,
        exclude=exclude,
        exclude_biases=exclude_biases,
        fan_in=fan_in,
    )
    excluded = _output_weights(model, members) if adamw is None else _chosen(model, adamw)
    matrices = [member for member in members if _is_matrix(member)]
    for_muon = [member for member in matrices if member.parameter not in excluded]
    if not for_muon:
        raise ValueError(
            f"{type(model).__name__} has no hidden matrix for Muon, but {len(matrices)} in output"
            " layers or excluded by adamw=: use AdamW alone, or list only the patterns of the output"
            " layers in adamw=[…]."
        )
    muon = {member.parameter for member in for_muon}
    for_adamw = [member for member in members if member.parameter not in muon]
    groups = make_groups(for_muon, settings), make_groups(for_adamw, settings)
    position = len(for_muon)
    for group in (
        groups[1] if settings.regularizer == "syre" else ()
    ):  # the only one with random anchors
        group["anchor_position"] = position
        position += len(group["params"])
    outputs = [member.name for member in matrices if member.parameter in excluded]
    logger.info("Output layers, for AdamW: %s. First Muon's groups, then AdamW's:", listed(outputs))
    report_groups(groups[0], for_muon, settings)
    report_groups(groups[1], for_adamw, settings)
    return groups


def _is_matrix(member: Member) -> bool:
    return member.layout.kind == "weight" and member.parameter.dim() == 2


def _chosen(model: nn.Module, patterns: str | Iterable[str]) -> set[nn.Parameter]:
    names = parameter_names(model)
    return {
        parameter
        for pattern in pattern_list("adamw", patterns)
        for parameter in matching_parameters("adamw", pattern, names)
    }


def _output_weights(model: nn.Module, members: Sequence[Member]) -> set[nn.Parameter]:
    """Return the matrices of layers with an output layer's name, and the last matrix of all."""
    by_parameter = {member.parameter: member for member in members}
    found, seen, last = set(), set(), None
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = name.split(".")[-2:-1]
        is_matrix = _is_matrix(by_parameter[parameter])
        if is_matrix and layer and layer[0] in OUTPUT_LAYERS:
            found.add(parameter)
        # If the output layer shares its matrix with an embedding, that matrix is the last one.
        if is_matrix or parameter in seen:
            last = parameter
        seen.add(parameter)
    return found if last is None else found | {last}
