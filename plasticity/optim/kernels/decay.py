"""Decay of `plasticity.optim.decay` as one Triton kernel over many tensors.

Bytes per float32 parameter, each of which is read or written once:

    coupled    read parameter, gradient, anchor; write the new gradient    16, drawn 12
    decoupled  read parameter, anchor; write parameter                     12, drawn  8

The eager form takes 24 for the coupled decay (the first foreach operation reads two and writes one,
the second likewise), and also 12 for the decoupled one, a single lerp: there the kernel can only save the
anchor's memory. Computed as in `plasticity.optim.kernels.adam`, not measured: with a drawn anchor an
element takes 59 (decoupled) or 62 (coupled) instructions, on an H200 2.0 and 2.1 ps if no issue slot is
lost, where 8 and 12 bytes take 1.7 and 2.5, and the stored anchor's 12 and 16 take 2.5 and 3.3. So
drawing for the decay alone saves a fifth or a quarter at best, and the limit may be arithmetic, not
memory.

Nothing here waits for the device.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from plasticity.optim.kernels.table import (
    GRADIENT,
    NUMBERS,
    OUTPUT,
    PARAMETER,
    chunk_of_program,
    decayed,
    launches,
    scalar_argument,
    tensor_at,
)
from plasticity.optim.kernels.tensor_table import Anchors, Column, TableCache


@triton.jit
def _decay_chunk(
    fields: tl.tensor,
    deviation: tl.tensor,
    amount: tl.tensor,
    start: tl.tensor,
    offsets: tl.tensor,
    mask: tl.tensor,
    decoupled: tl.constexpr,
    anchor: tl.constexpr,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    to_parameter = tensor_at(fields, PARAMETER, dtype, aligned) + offsets
    parameter = tl.load(to_parameter, mask=mask).to(tl.float32)
    gradient = parameter  # not used if the decay is decoupled
    if not decoupled:
        to_gradient = tensor_at(fields, GRADIENT, dtype, aligned) + offsets
        gradient = tl.load(to_gradient, mask=mask).to(tl.float32)
    parameter, gradient = decayed(
        *(parameter, gradient, amount, fields, deviation, start, offsets, mask),
        *(decoupled, anchor, dtype, aligned, chunk),
    )
    if decoupled:
        tl.store(to_parameter, parameter.to(dtype), mask=mask)
    else:
        to_output = tensor_at(fields, OUTPUT, dtype, aligned) + offsets
        tl.store(to_output, gradient.to(dtype), mask=mask)


@triton.jit
def decay_kernel(
    table: tl.tensor,
    program_rows: tl.tensor,
    numbers: tl.tensor,
    amount: tl.tensor,
    amount_on_device: tl.constexpr,
    decoupled: tl.constexpr,
    anchor: tl.constexpr,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """Decay one chunk of one tensor. `amount` is a number, or a pointer to one float32."""
    row, fields, elements, start, offsets = chunk_of_program(table, program_rows, chunk)
    deviation = tl.load(numbers + row * NUMBERS)
    if amount_on_device:
        amount = tl.load(amount)
    # A whole chunk needs no mask, which would prevent the 16-byte reads.
    if start + chunk <= elements:
        _decay_chunk(
            *(fields, deviation, amount, start, offsets, None),
            *(decoupled, anchor, dtype, aligned, chunk),
        )
    else:
        _decay_chunk(
            *(fields, deviation, amount, start, offsets, offsets < elements),
            *(decoupled, anchor, dtype, aligned, chunk),
        )


def decay_toward_(
    parameters: Sequence[Tensor],
    anchors: Anchors,
    amount: float | Tensor,
    cache: TableCache | None = None,
) -> None:
    """Apply the decoupled decay in place: theta <- theta - amount * (theta - anchor).

    Args:
        parameters: theta, float32 or bfloat16 (the arithmetic is in float32); changed. Dense, in
            any memory format.
        anchors: One tensor for each parameter, of its layout; or a `DrawnAnchor` for each (the
            parameters must then be contiguous); or None for zero.
        amount: Learning rate * strength; a tensor of one element stays on the device.
        cache: Cache that keeps the tables of addresses between calls.
    """
    _decay({Column.PARAMETER: parameters}, anchors, amount, cache, decoupled=True)


def decayed_gradients(
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    anchors: Anchors,
    strength: float | Tensor,
    cache: TableCache | None = None,
) -> list[Tensor]:
    """Return gradients with the coupled decay, as new tensors: gradient + strength * (theta - anchor).

    Args:
        gradients: One tensor for each parameter, of its layout; not changed.
        parameters: theta, as in `decay_toward_`; not changed.
        anchors: Anchors as in `decay_toward_`.
        strength: Strength in the sense of torch's `weight_decay`; a tensor of one element stays on the
            device.
        cache: Cache that keeps the tables of addresses between calls.
    """
    decayed = [torch.empty_like(parameter) for parameter in parameters]
    columns = {
        Column.PARAMETER: parameters,
        Column.GRADIENT: gradients,
        Column.OUTPUT: decayed,
    }
    _decay(columns, anchors, strength, cache, decoupled=False)
    return decayed


@torch.compiler.disable  # it reads addresses, which do not exist in a compiled step
def _decay(
    columns: dict[Column, Sequence[Tensor]],
    anchors: Anchors,
    amount: float | Tensor,
    cache: TableCache | None,
    *,
    decoupled: bool,
) -> None:
    for table, constants in launches(columns, anchors, cache):
        given, on_device = scalar_argument(amount, table.key.device)
        decay_kernel[(table.programs,)](
            *(table.fields, table.program_rows, table.numbers, given),
            amount_on_device=on_device,
            decoupled=decoupled,
            **constants,
        )
