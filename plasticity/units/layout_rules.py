"""Rules for operations that move entries, and for those that remove axes: reductions and pooling."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from plasticity.units.numbers import NO_UNIT, collapsed, collapsed_everywhere, tensors_in
from plasticity.units.operation import Operation

LAYOUT = frozenset(
    {"permute", "transpose", "t", "expand", "slice", "select", "split", "split_with_sizes", "unbind"}
    | {"squeeze", "unsqueeze", "cat", "stack", "repeat", "repeat_interleave", "roll", "flip", "index"}
    | {"index_select"}
    | {"gather", "narrow", "diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
    | {"movedim", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "swapaxes", "rot90"}
    | {"reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "im2col", "replication_pad1d"}
    | {"replication_pad2d", "replication_pad3d", "constant_pad_nd", "_unsafe_index", "masked_select"}
)  # fmt: skip
"""Operations that move entries, repeated on the numbers. Reshaping is handled separately."""

SHIFTING = frozenset(
    {"roll", "flip", "rot90", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"}
    | {"replication_pad1d", "replication_pad2d", "replication_pad3d"}
)  # fmt: skip
"""Operations among `LAYOUT` that put an entry at another position, or put others beside it."""

RESHAPING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})

REDUCTIONS = frozenset(
    {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "logsumexp", "prod"}
    | {"linalg_vector_norm", "norm", "nansum", "median", "all", "any"}
)  # fmt: skip
"""Functions whose result does not depend on the order of the entries."""

CUMULATIVE = frozenset({"cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"})


FACTORIES = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"}
    | {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
)  # fmt: skip
"""Functions that use nothing of a tensor but its shape."""


def reshaped(operation: Operation, result: Tensor) -> bool:
    """Follow a reshaping."""
    carried = operation.carried()
    if carried:
        numbers, shape = carried[0], list(result.shape)
        # The numbers do not depend on the sample, so the batch axis stays expanded.
        if numbers.ndim and numbers.stride(0) == 0 and shape and shape[0] == numbers.shape[0]:
            operation.set_expanded(result, numbers[:1].reshape(1, *shape[1:]))
        else:
            operation.record.assign(result, numbers.reshape(shape))
    return True


def moved(operation: Operation, result: Any) -> bool:
    """Follow an operation that moves entries, by repeating it on the numbers."""
    if not operation.carried():
        return True
    exact = operation.name.startswith(("reflection", "replication", "im2col"))  # reject integers

    def on_numbers(value: Any) -> Any:
        if isinstance(value, Tensor):
            numbers, _ = operation.lookup(value)
            if numbers is None and value.dtype in (
                torch.int64,
                torch.int32,
                torch.bool,
                torch.uint8,
            ):
                return value.cpu()  # an index
            if numbers is None:
                numbers = torch.full((), NO_UNIT, dtype=torch.int32).expand(value.shape)
            return numbers.double() if exact else numbers
        if isinstance(value, (list, tuple)):
            return type(value)(on_numbers(each) for each in value)
        return value

    args = [on_numbers(value) for value in operation.args]
    if operation.name == "cat" and all(
        _lies_along(piece, args[1] if len(args) > 1 else operation.kwargs.get("dim", 0))
        for piece in args[0]
    ):
        args[0] = operation.record.distinguished(args[0])
    if operation.name == "constant_pad_nd":
        args = [args[0], operation.args[1], NO_UNIT]
    numbers = operation.func(
        *args, **{key: on_numbers(value) for key, value in operation.kwargs.items()}
    )
    found = list(tensors_in(numbers))
    for each, of_each in zip(tensors_in(result), found, strict=True):
        operation.record.assign(each, of_each.round().to(torch.int32) if exact else of_each)
    return True


def _lies_along(numbers: Tensor, axis: int) -> bool:
    """Return whether the units differ along an axis; a single unit, whether there is one entry along it."""
    sizes = collapsed_everywhere(numbers).shape
    return sizes[axis] > 1 or (sizes.numel() == 1 and numbers.shape[axis] == 1)


def _dims(operation: Operation) -> list[int]:
    """Return the axes that a reduction runs over."""
    rank = operation.inputs[0].ndim
    for index, argument in enumerate(operation.func._schema.arguments):
        if argument.name == "dim":
            given = (
                operation.args[index]
                if index < len(operation.args)
                else operation.kwargs.get("dim")
            )
            given = [given] if isinstance(given, int) else given
            if given:
                return [each % rank for each in given]
    return list(range(rank))


def reduced(operation: Operation, result: Any) -> bool:
    """Follow a reduction or a running sum."""
    numbers = operation.numbers[0]
    if numbers is None:
        return True
    along = collapsed(numbers, _dims(operation))
    first = next(iter(tensors_in(result)))
    if along is None:
        if operation.name in CUMULATIVE:
            return False
        operation.summarise(result, operation.record.layers(numbers))
        return True
    if first.ndim != numbers.ndim:
        along = along.squeeze(_dims(operation))
    for each in tensors_in(result):
        operation.set_expanded(each, along)
    return True


def pooled(operation: Operation, result: Any) -> bool:
    """Follow pooling or interpolation over positions."""
    carried = operation.carried()
    spatial = re.search(r"(\d)d", operation.name)
    if not carried or spatial is None:
        return not carried
    numbers = carried[0]
    along = collapsed(numbers, range(numbers.ndim - int(spatial[1]), numbers.ndim))
    if along is None:
        return False
    for each in tensors_in(result):
        operation.set_expanded(each, along)
    return True


def summary_moved(operation: Operation, result: Any) -> bool:
    """Follow an operation that moves or reduces a tensor of sums of units."""
    if any(numbers is not None for numbers in operation.numbers):
        return False
    if operation.name in (LAYOUT | RESHAPING | REDUCTIONS):
        operation.summarise(result, operation.summaries)
        return True
    return False
