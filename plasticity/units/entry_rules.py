"""Rules for entry-wise operations: activations, sums, gates, and normalisation."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from plasticity.units.numbers import (
    NO_UNIT,
    collapsed,
    collapsed_everywhere,
    compact,
    numbered,
    same_shape,
    tensors_in,
)
from plasticity.units.operation import Operation
from plasticity.units.record import Source
from plasticity.units.weight_rules import adopt_bias

NORMALISATION = re.compile(r"(batch|layer|group|instance|rms)_norm")

FACTOR_NAMES = ("weight", "running_var")
"""Names of a normalisation's tensors that are 1 at the beginning; the others are 0."""

SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})


def normalisation(operation: Operation, result: Any) -> bool:
    """Follow a normalisation."""
    first = next(iter(tensors_in(result)), None)
    data = operation.inputs[0] if operation.inputs else None
    if first is None or data is None or first.shape != data.shape or not first.ndim:
        return False
    given = numbers = operation.numbers[0]
    along_units = re.search("layer_norm|rms_norm", operation.name) is not None
    if given is None and first.ndim > 1:
        # Raw inputs: their channels are units of the result that no layer made.
        axis = first.ndim - 1 if along_units else 1
        source = Source(operation.record.next_number, first.shape[axis], frozenset())
        numbers = numbered(first.shape, axis, source.first)
        operation.record.add_source(source)
    operation.record.assign(first, numbers)
    if given is not None:
        _record_normalizers(operation, given, -1 if along_units else 1)
    groups = operation.args[6] if operation.name == "native_group_norm" else 1
    if given is not None and groups > 1:
        reason = f"its units are equal within a group only: a normalisation has {groups} groups"
        operation.record.make_unequal(given, reason)
    if given is not None and along_units:
        _compare_along(operation, given, len(operation.args[1]))
    return True


def _record_normalizers(operation: Operation, numbers: Tensor, axis: int) -> None:
    """Record the factors and offsets, learned or running, that a normalisation has for each unit.

    Args:
        operation: The normalisation.
        numbers: Unit numbers of its input.
        axis: Axis of the units where there is one factor for each; -1 also for a normalisation over
            several axes, the first of which holds the units.
    """
    for weight in operation.weights[1:]:
        if weight is None or not weight.shape:
            continue
        along = (numbers.ndim - len(weight.shape)) if axis == -1 else axis
        units = collapsed(numbers, [each for each in range(numbers.ndim) if each != along])
        if units is None or units.shape[along] != weight.shape[0]:
            continue
        name = weight.names[0]
        path = f"{weight.layers[0]}.{name}" if weight.layers[0] else name
        operation.record.normalizers.append((units.flatten(), path, name in FACTOR_NAMES))


def softmax(operation: Operation, result: Any) -> bool:
    """Follow a softmax, which treats all entries along its axis alike."""
    for numbers in operation.carried():
        axis = operation.args[1] % numbers.ndim
        _compare_along(operation, numbers.movedim(axis, -1), 1)
    return pointwise(operation, result)


def _compare_along(operation: Operation, numbers: Tensor, count: int) -> None:
    """Look for units that meet only some of the others: units along the last axes and along others too."""
    sizes = collapsed_everywhere(numbers).shape
    inside, outside = sizes[len(sizes) - count :], sizes[: len(sizes) - count]
    if any(size != 1 for size in inside) and any(size != 1 for size in outside):
        reason = f"its units are equal within a group only, by {operation.name}"
        operation.record.make_unequal(numbers, reason)


def pointwise(operation: Operation, result: Any) -> bool:
    """Follow a function of each entry by itself, of one tensor or of several combined."""
    first = next(iter(tensors_in(result)), None)
    if first is None:
        return True
    record, carried = operation.record, operation.carried()
    if not carried:
        if operation.summaries:
            operation.summarise(result, operation.summaries)
        return True
    layers: frozenset[str] = frozenset()
    for numbers in carried:
        layers |= record.layers(numbers)
    record.refuse(operation.summaries - layers, "its units are summed up")
    joined = carried[0].expand(first.shape)
    for numbers in carried[1:]:
        joined = _met(operation, joined, numbers, first.shape)
    if operation.name.startswith("add"):
        _note_bias(operation, joined)
    if record.check_equality:
        _compare(operation, joined, first)
    before = record.find(first) if operation.in_place else None
    if operation.in_place and before is None and not _is_whole(first):
        # Written into part of a tensor: its other views keep their old numbers.
        operation.refuse_all(joined, "its output is written into a part of another tensor")
        return True
    record.assign(first, joined)
    return True


def _met(operation: Operation, one: Tensor, other: Tensor, shape: torch.Size) -> Tensor:
    """Return numbers for the pairs of units that meet; a unit that meets itself keeps its number."""
    first, second = same_shape([one, other], shape)
    if bool((first == second).all() or (second == NO_UNIT).all()):
        return one.expand(shape)
    if bool((first == NO_UNIT).all()):
        return other.expand(shape)
    return operation.record.joined(first, second).expand(shape)


def _note_bias(operation: Operation, numbers: Tensor) -> None:
    units = compact(numbers)
    low, high = int(units.min()), int(units.max())
    source = operation.record.source(low) if low >= 0 else None
    if source is not None and source.members is None and source is operation.record.source(high):
        for tensor, weight in zip(operation.inputs, operation.weights, strict=True):
            if weight is not None and tensor.ndim == 1:
                adopt_bias(operation, source, tensor)


def _compare(operation: Operation, numbers: Tensor, result: Tensor) -> None:
    """Look for data that differ between units, and so make the units unequal."""
    shape = collapsed_everywhere(numbers).shape
    axes = [axis for axis, size in enumerate(shape) if size != 1]
    for tensor, own, weight in zip(
        operation.inputs, operation.numbers, operation.weights, strict=True
    ):
        is_parameter = weight is not None and not weight.is_buffer
        if own is not None or is_parameter or not tensor.ndim or tensor is result:
            continue
        values = tensor.detach().expand(result.shape)
        for axis in axes:
            if not bool((values == values.narrow(axis, 0, 1)).all()):
                reason = f"its units are combined with data that differ between units, in {operation.name}"
                operation.record.make_unequal(numbers, reason)
                return


def gated(operation: Operation, result: Tensor) -> bool:
    """Follow a gated linear unit: its two halves meet."""
    carried = operation.carried()
    if not carried:
        return True
    dim = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", -1)
    values, gates = carried[0].chunk(2, dim)
    operation.record.assign(result, _met(operation, values, gates, result.shape))
    return True


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
