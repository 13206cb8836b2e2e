"""A model's parameters dealt out to two optimizers: hidden matrices to Muon, the rest to AdamW."""

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
"""Names of layers that give a network's output, wherever they stand in it."""


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

    Muon (Jordan et al., 2024) gets the weights with two dimensions of hidden layers. AdamW gets what
    Muon's authors give it: embeddings and tokens, the output layer, biases and other vectors,
    normalisation layers; and what Muon does not take: kernels of convolutions, and matrices of unknown
    layout unless `fan_in` tells it. Which output layers were found is logged at level INFO::

        matrices, others = muon_parameter_groups(model, regularizer="syre", strength=0.01)
        muon = regularized(torch.optim.Muon)(matrices, lr=0.02)
        adamw = regularized(torch.optim.AdamW)(others, lr=3e-4)

    Syre's groups for AdamW say at which position their anchors begin ("anchor_position"), behind those of
    Muon's: with one `anchor_seed`, no parameter has another's anchor.

    Args:
        model: As in `parameter_groups`, as are the others but the last.
        regularizer: "none", "weight-decay", "syre" or "l2-init".
        strength: Of torch's `weight_decay`.
        sigma: Spread of syre's anchor, relative to the usual initialisation.
        anisotropy: Of syre's Eq. 7.
        decoupled: As in `regularized`.
        anchor_seed: As in `regularized`.
        include_normalization: Regularize normalisation layers too.
        exclude: Patterns of names that are not regularized; they are trained all the same.
        exclude_biases: Do not regularize biases.
        fan_in: Fan-ins by pattern.
        adamw: Patterns of names that go to AdamW, the output layer's before all: "3.weight". None: the
            last hidden matrix in the order of `model.named_parameters()` and those of layers called
            "head", "lm_head", "classifier", "score", "action_net" or "value_net". An empty list: none.

    Returns:
        Groups for Muon, and groups for AdamW; the second list is empty where there is nothing else.

    Raises:
        TypeError: as `parameter_groups`.
        ValueError: as `parameter_groups`, or if nothing is left for Muon.
    """
    settings = RegularizerSettings(regularizer, strength, sigma, anisotropy, decoupled, anchor_seed)
    members = choose_members(
        model,
        include_normalization=include_normalization,
        exclude=exclude,
        exclude_biases=exclude_biases,
        fan_in=fan_in,
    )
    apart = _output_weights(model, members) if adamw is None else _chosen(model, adamw)
    matrices = [member for member in members if _is_matrix(member)]
    for_muon = [member for member in matrices if member.parameter not in apart]
    if not for_muon:
        raise ValueError(
            f"{type(model).__name__} has no hidden matrix for Muon, but {len(matrices)} in output"
            " layers or excluded by adamw=: use AdamW alone, or give adamw=[…] the patterns of the"
            " output layers."
        )
    muon = {member.parameter for member in for_muon}
    for_adamw = [member for member in members if member.parameter not in muon]
    groups = make_groups(for_muon, settings), make_groups(for_adamw, settings)
    position = len(for_muon)
    for group in groups[1] if settings.regularizer == "syre" else ():  # which alone draws anchors
        group["anchor_position"] = position
        position += len(group["params"])
    outputs = [member.name for member in matrices if member.parameter in apart]
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
    """Weights of layers with an output layer's name, and the last one of all."""
    by_parameter = {member.parameter: member for member in members}
    found, seen, last = set(), set(), None
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = name.split(".")[-2:-1]
        is_matrix = _is_matrix(by_parameter[parameter])
        if is_matrix and layer and layer[0] in OUTPUT_LAYERS:
            found.add(parameter)
        # Where the output layer shares its matrix with an embedding, no other is the last.
        if is_matrix or parameter in seen:
            last = parameter
        seen.add(parameter)
    return found if last is None else found | {last}
