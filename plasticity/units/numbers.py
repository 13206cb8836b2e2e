"""Unit numbers: an integer for each entry of an activation, the unit that produced the entry.

They show which axes of an activation hold its units, however its axes were rearranged: two entries with the
same number are outputs of one unit, for two samples or at two positions. -1 marks an entry of no unit:
padding, or data that no layer made. Numbers are expanded views (stride 0) along every axis that they do not
depend on, so that they take hardly any memory; `compact` undoes that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_UNIT = -1
"""Number of an entry that belongs to no unit."""


def numbered(shape: Sequence[int], axis: int, first: int) -> Tensor:
    """Return the numbers first, first + 1, … along one axis. Shape: as given."""
    numbers = torch.arange(first, first + shape[axis], dtype=torch.int32)
    aligned = [1] * len(shape)
    aligned[axis] = -1
    return numbers.view(aligned).expand(*shape)


def compact(numbers: Tensor) -> Tensor:
    """Return a view with size 1 along each axis that was expanded."""
    for axis, stride in enumerate(numbers.stride()):
        if stride == 0 and numbers.shape[axis]:
            numbers = numbers.narrow(axis, 0, 1)
    return numbers


def collapsed(numbers: Tensor, axes: Iterable[int]) -> Tensor | None:
    """Return the numbers with size 1 along axes on which they are constant; None where they are not.

    Entries of no unit agree with every number. Axes that were expanded have size 1 too.
    """
    found = compact(numbers)
    wanted = [axis for axis in axes if found.shape[axis] != 1]
    if not wanted:
        return found
    largest = found.amax(wanted, keepdim=True)
    same = (found == largest) | (found == NO_UNIT)
    return largest if bool(same.all()) else None


def collapsed_everywhere(numbers: Tensor) -> Tensor:
    """Return the numbers with size 1 along every axis on which they are constant."""
    found = compact(numbers)
    for axis in range(found.ndim):
        along = collapsed(found, [axis])
        found = found if along is None else along
    return found


def same_shape(numbers: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
    """Return compact numbers that broadcast to each other, for a result of the given shape."""
    compacted = [compact(each.expand(*shape)) for each in numbers]
    common = torch.broadcast_shapes(*(each.shape for each in compacted))  # type: ignore[no-untyped-call]
    return [each.expand(common) for each in compacted]


@dataclass(frozen=True)
class UnitLayout:
    """Position of the units in an activation."""

    axes: tuple[int, ...]
    """Axes along which the entries are outputs of different units; several where they hold the units jointly,
    as (heads, head_dim) do. Empty for a layer of a single unit."""

    order: Tensor | None = None
    """Positions along these axes, flattened, sorted by unit, where a unit has several (a flattened
    convolution map). Shape: (positions,)."""

    repeats: int = 1
    """Number of positions of each unit along these axes."""

    def matrix(self, activation: Tensor) -> Tensor:
        """Return the activation with a column per unit. Shape: (rows, units)."""
        rest = [axis for axis in range(activation.ndim) if axis not in self.axes]
        width = math.prod(activation.shape[axis] for axis in self.axes)
        rows = activation.permute(*rest, *self.axes).reshape(-1, width)
        if self.order is None:
            return rows
        sorted_by_unit = rows.index_select(1, self.order.to(rows.device))
        units = width // self.repeats
        return sorted_by_unit.view(-1, units, self.repeats).mT.reshape(-1, units)


def layout_of(numbers: Tensor) -> UnitLayout | None:
    """Return the axes that hold the units, or None where the numbers do not determine them."""
    found = collapsed_everywhere(numbers)
    axes = tuple(axis for axis, size in enumerate(found.shape) if size != 1)
    units = found.flatten()
    if bool((units == NO_UNIT).all()):
        return None
    # An entry of no unit (raw inputs beside features) is a column of its own.
    missing = units == NO_UNIT
    units = units.long()
    units[missing] = -1 - torch.arange(int(missing.sum()))
    counts = torch.unique(units, return_counts=True)[1]
    repeats = int(counts[0])
    if repeats == 1 and bool((counts == 1).all()):
        return UnitLayout(axes)
    if bool((counts != repeats).any()):
        return None
    return UnitLayout(axes, units.argsort(stable=True), repeats)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dictionaries and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for entry in value:
            yield from tensors_in(entry)
