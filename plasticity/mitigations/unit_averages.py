"""Averages of all hidden layers' features and weights, in as few operations as there can be.

A mitigation that looks at every unit after every step would otherwise cost more than the step itself: a
tensor of a hundred numbers takes as long as one of thousands, so that layers are joined where they can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plasticity.mitigations.context import Context
from plasticity.mitigations.hidden_units import UnitReader
from plasticity.mitigations.processes import mean_over_processes


def joined_features(context: Context) -> list[Tensor]:
    """Return the features of all layers in their order, neighbours in one tensor if they have equal rows.

    Returns:
        Shape of each: (..., rows, units) of such neighbours, or (..., rows, units, positions, places) of a
        layer whose units have several entries, as in `UnitReader.by_entry`.
    """
    lead = len(context.lead)
    found: list[Tensor] = []
    rows: list[Tensor] = []
    for layer, units in context.units.items():
        reader, parts = units.readers[0], context.reader_inputs(layer)
        inputs = parts[0] if len(parts) == 1 else torch.cat(parts, lead)
        is_plain = reader.in_order and reader.columns.shape[1] == 1 and not reader.reads_map
        if is_plain and inputs.dim() > lead + 2:
            inputs = inputs.flatten(lead, -2)
        if rows and not (is_plain and rows[0].shape[-2] == inputs.shape[-2]):
            found.append(joined(rows))
            rows = []
        if is_plain:
            rows.append(inputs)
        else:
            found.append(reader.by_entry(inputs, lead))
    return [*found, joined(rows)] if rows else found


def mean_features(context: Context, features: Sequence[Tensor]) -> Tensor:
    """Return the mean feature of each unit at each position.

    Args:
        context: Context of the networks.
        features: As `joined_features` returns them.

    Returns:
        Shape: (..., columns of all layers, unit by unit).
    """
    lead = len(context.lead)
    means = [
        _mean_of_rows(context, each)
        if each.dim() == lead + 2
        else context.averaged(each, (-4, -1)).flatten(lead)
        for each in features
    ]
    return joined(means)


def mean_magnitudes(
    context: Context, features: Sequence[Tensor], around: Tensor | None = None
) -> Tensor:
    """Return the mean distance of each unit's features from 0, or from other numbers.

    Args:
        context: Context of the networks.
        features: As `joined_features` returns them.
        around: Numbers for each column, as `mean_features` returns them.

    Returns:
        Shape: (..., units of all layers).
    """
    lead, first = len(context.lead), 0
    found = []
    for each in features:
        is_plain = each.dim() == lead + 2
        values = each
        if around is not None:
            shape = each.shape[-1:] if is_plain else (*each.shape[-3:-1], 1)
            count = math.prod(shape)
            own = around.narrow(-1, first, count)
            values = each - own.view(*context.lead, 1, *shape)
            first += count
        distances = values.abs() if around is None else values.abs_()
        found.append(
            _mean_of_rows(context, distances)
            if is_plain
            else context.averaged(distances, (-4, -2, -1))
        )
    return joined(found)


def _mean_of_rows(context: Context, values: Tensor) -> Tensor:
    # of a single row: a mean would take as long as all the rest
    if values.shape[-2] == 1 and values.element_size() >= 4:
        return mean_over_processes(values.select(-2, 0))
    return context.averaged(values, (-2,))


def weight_magnitudes(
    context: Context, *, incoming: bool = True, outgoing: bool = True
) -> dict[str, Tensor]:
    """Return the absolute values of weights, each once though it makes units and reads others, by name.

    Args:
        context: Context of the networks.
        incoming: Whether those that make units are wanted.
        outgoing: Whether those that read units are wanted.
    """
    names: dict[str, None] = {}
    for units in context.units.values():
        if incoming:
            names[units.weight] = None
        if outgoing:
            names.update((each.weight, None) for each in units.readers)
    weights = {name: context.parameters[name].detach() for name in names}
    if next(iter(weights.values())).device.type != "cpu":
        return dict(zip(names, torch._foreach_abs([*weights.values()]), strict=True))
    # into the same memory at every step: new memory is not in the cache
    return {name: torch.abs(each, out=context.scratch(name)) for name, each in weights.items()}


def outgoing_sums(context: Context, magnitudes: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the absolute weights that read each unit. Shape: (..., units of all layers).

    Args:
        context: Context of the networks.
        magnitudes: As `weight_magnitudes` returns them.
    """
    lead = len(context.lead)
    sums = []
    for units in context.units.values():
        first, *others = [
            _by_unit(each, _sum_along(magnitudes[each.weight], lead + each.axis, lead))
            for each in units.readers
        ]
        total = first
        for each in others:
            total = total + each
        sums.append(total)
    return joined(sums)


def incoming_sums(context: Context, magnitudes: Mapping[str, Tensor]) -> tuple[Tensor, list[int]]:
    """Return the sum of the absolute weights that make each unit, and their number in each layer.

    Args:
        context: Context of the networks.
        magnitudes: As `weight_magnitudes` returns them.

    Returns:
        Shape: (..., units of all layers); and one number for each layer.
    """
    lead = len(context.lead)
    sums, numbers = [], []
    for units in context.units.values():
        own = magnitudes[units.weight]
        sums.append(_sum_along(own, lead + units.axis, lead))
        numbers.append(own.numel() // sums[-1].numel())
    return joined(sums), numbers


def incoming_means(context: Context, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean absolute value of what belongs to the weights that make each unit.

    Args:
        context: Context of the networks.
        tensors: Tensors by the name of their parameter: parameters or gradients.

    Returns:
        Means by layer, of those layers that have a tensor. Shape of each: (..., units).
    """
    lead = len(context.lead)
    every = {name: each for name, each in context.units.items() if each.weight in tensors}
    sizes = torch._foreach_abs([tensors[each.weight] for each in every.values()]) if every else ()
    return {
        name: _mean_but(own, lead, lead + units.axis)
        for (name, units), own in zip(every.items(), sizes, strict=True)
    }


def _mean_but(values: Tensor, lead: int, axis: int) -> Tensor:
    """Average over all dimensions but the leading ones and an axis, in float32 at least."""
    others = [dim for dim in range(lead, values.dim()) if dim != axis]
    return values.mean(others, dtype=torch.float32 if values.element_size() < 4 else None)


def _by_unit(reader: UnitReader, by_column: Tensor) -> Tensor:
    if reader.in_order and reader.columns.shape[1] == 1:
        return by_column
    return by_column[..., reader.columns].sum(-1)


def _sum_along(weight: Tensor, axis: int, lead: int) -> Tensor:
    """Sum a weight over all dimensions but the leading ones and an axis, in float32 at least."""
    dtype = torch.float32 if weight.element_size() < 4 else None
    if weight.dim() == lead + 2:
        return weight.sum(lead if axis > lead else lead + 1, dtype=dtype)
    return weight.sum([dim for dim in range(lead, weight.dim()) if dim != axis], dtype=dtype)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors along their last dimension."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
