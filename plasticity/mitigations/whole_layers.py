"""Whole parameters and layers, as resets take them: the last layers, new draws, fresh statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from plasticity.mitigations.context import Context
from plasticity.mitigations.parameter_roles import ParameterRole

FRESH_STATISTICS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
"""Values that the buffers of a batch normalization have at first, by name."""


def redraw(context: Context, names: Iterable[str]) -> None:
    """Draw parameters anew, each from its initial distribution, in place; their moments stay."""
    for name in names:
        context.parameters[name].copy_(context.fresh(name))


def reset_statistics(context: Context, layers: Collection[str] | None = None) -> None:
    """Return the running statistics of batch normalizations to their first values.

    Args:
        context: Context.
        layers: Names of the normalizations. None: all.
    """
    for name, statistic in context.buffers.items():
        layer, _, own = name.rpartition(".")
        if own in FRESH_STATISTICS and (layers is None or layer in layers):
            statistic.fill_(FRESH_STATISTICS[own])


def layer_groups(roles: Mapping[str, ParameterRole]) -> list[list[str]]:
    """Return the names of parameters, layer by layer, from the first to the output.

    Hidden layers are in the order in which the model has them. What has no weights of a layer, such as a
    normalization, goes with the layer before it, and with the first if there is none; without any layer, it
    is left out. All layers whose units are outputs are the last entry.

    Args:
        roles: Roles by name, in the order of the model's parameters.
    """
    hidden: dict[str, list[str]] = {}
    outputs: list[str] = []
    before: list[str] = []
    latest = before
    for name, role in roles.items():
        if role.is_output:
            latest = outputs
        elif role.kind in ("weight", "bias"):
            latest = hidden.setdefault(role.layer, [])
        latest.append(name)
    groups = [*hidden.values(), *([outputs] if outputs else [])]
    return [before + groups[0], *groups[1:]] if groups else []
