"""Access of kernels to tensors through the address table of `plasticity.optim.kernels.tensor_table`."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from plasticity.optim.kernels.anchor import drawn_normals
from plasticity.optim.kernels.step import interpreted
from plasticity.optim.kernels.tensor_table import (
    CHUNK,
    Anchors,
    Column,
    DrawnAnchor,
    TableCache,
    TensorTable,
)

COLUMNS = tl.constexpr(len(Column))
PARAMETER = tl.constexpr(int(Column.PARAMETER))
GRADIENT = tl.constexpr(int(Column.GRADIENT))
FIRST_MOMENT = tl.constexpr(int(Column.FIRST_MOMENT))
SECOND_MOMENT = tl.constexpr(int(Column.SECOND_MOMENT))
STEP = tl.constexpr(int(Column.STEP))
ANCHOR = tl.constexpr(int(Column.ANCHOR))
OUTPUT = tl.constexpr(int(Column.OUTPUT))
ELEMENTS = tl.constexpr(int(Column.ELEMENTS))
FIRST_PROGRAM = tl.constexpr(int(Column.FIRST_PROGRAM))
SEED = tl.constexpr(int(Column.SEED))
POSITION = tl.constexpr(int(Column.POSITION))

NUMBERS = tl.constexpr(4)

NO_ANCHOR = tl.constexpr(0)
STORED_ANCHOR = tl.constexpr(1)
DRAWN_ANCHOR = tl.constexpr(2)


@triton.jit
def tensor_at(
    fields: tl.tensor, column: tl.constexpr, dtype: tl.constexpr, aligned: tl.constexpr
) -> tl.tensor:
    """Return a pointer to the first element of the tensor in a row and column of the table."""
    pointer = tl.load(fields + column).to(tl.pointer_type(dtype))
    if aligned:
        # A hint on the pointer: on the integer it would be lost, and with it the 16-byte reads.
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def chunk_of_program(
    table: tl.tensor, program_rows: tl.tensor, chunk: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return the part of the work that this program does.

    Returns:
        Row of its tensor, fields of that row, number of elements of the tensor, index of the chunk's first
        element, and the indices of all its elements, some of which may be past the end.
    """
    program = tl.program_id(0)
    row = tl.load(program_rows + program).to(tl.int64)
    fields = table + row * COLUMNS
    start = (program - tl.load(fields + FIRST_PROGRAM)) * chunk
    return row, fields, tl.load(fields + ELEMENTS), start, start + tl.arange(0, chunk)


@triton.jit
def decayed(
    parameter: tl.tensor,
    gradient: tl.tensor,
    amount: tl.tensor,
    fields: tl.tensor,
    deviation: tl.tensor,
    start: tl.tensor,
    offsets: tl.tensor,
    mask: tl.tensor,
    decoupled: tl.constexpr,
    anchor: tl.constexpr,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    chunk: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return parameters and gradients with the decay, for one chunk in float32.

    Decoupled: theta - amount * (theta - anchor). Coupled: gradient + amount * (theta - anchor). A drawn
    anchor is rounded to the parameter's dtype.
    """
    distance = parameter
    if anchor == STORED_ANCHOR:
        stored = tl.load(tensor_at(fields, ANCHOR, dtype, aligned) + offsets, mask=mask)
        distance = parameter - stored.to(tl.float32)
    if anchor == DRAWN_ANCHOR:
        seed, position = tl.load(fields + SEED), tl.load(fields + POSITION)
        drawn = drawn_normals(start // 4, seed, position, chunk) * deviation
        distance = parameter - drawn.to(dtype).to(tl.float32)
    if decoupled:
        parameter = parameter - amount * distance
    else:
        gradient = gradient + amount * distance
    return parameter, gradient


# ---- the launch -------------------------------------------------------------------------------------

_TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def launches(
    columns: Mapping[Column, Sequence[Tensor]], anchors: Anchors, cache: TableCache | None
) -> Iterator[tuple[TensorTable, dict[str, Any]]]:
    """Iterate over the launches that some tensors need, each with its device selected.

    Args:
        columns: Tensors by column, without the anchors.
        anchors: Anchors: stored, drawn or zero.
        cache: Cache that keeps the tables between calls.

    Yields:
        The table, and the keyword arguments that all kernels take.

    Raises:
        RuntimeError: if a parameter is not on a CUDA device, and Triton's interpreter is off.
        TypeError: if a parameter's dtype is neither float32 nor bfloat16.
    """
    for parameter in columns[Column.PARAMETER]:
        _require_launchable(parameter)
    columns = dict(columns)
    drawn = None
    kind = NO_ANCHOR
    if anchors and isinstance(anchors[0], Tensor):
        columns[Column.ANCHOR] = cast("Sequence[Tensor]", anchors)
        kind = STORED_ANCHOR
    elif anchors:
        drawn = cast("Sequence[DrawnAnchor]", anchors)
        kind = DRAWN_ANCHOR
    for table in (TableCache() if cache is None else cache).tables(columns, drawn):
        constants = {
            "anchor": kind.value,
            "dtype": _TRITON_DTYPES[table.key.dtype],
            "aligned": table.key.aligned,
            "chunk": CHUNK,
        }
        on_gpu = table.key.device.type == "cuda"
        with torch.cuda.device(table.key.device) if on_gpu else nullcontext():
            yield table, constants


def scalar_argument(value: float | Tensor, device: torch.device) -> tuple[float | Tensor, bool]:
    """Return a kernel's argument for a number, and whether it is an address, without waiting for the device.

    Args:
        value: A number, or a tensor of one element.
        device: Device of the kernel. A tensor on it stays there.
    """
    if isinstance(value, Tensor) and value.device == device:
        return value.to(torch.float32), True
    return float(value), False


def _require_launchable(parameter: Tensor) -> None:
    if parameter.dtype not in _TRITON_DTYPES:
        raise TypeError(
            f"The kernels are for float32 and bfloat16 parameters, not {parameter.dtype}: give"
            ' kernel="eager".'
        )
    if not parameter.is_cuda and not interpreted():
        raise RuntimeError(
            f"The kernels run on a CUDA device, and this parameter is on {parameter.device}: move the"
            ' model there, or give kernel="eager".'
        )
