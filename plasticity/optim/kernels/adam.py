"""Adam and AdamW including the decay: one Triton kernel over many tensors.

Bytes per float32 parameter. Plain fused Adam reads parameter, gradient and both moments, and writes
all but the gradient, 7 x 4:

    no decay, weight decay, drawn anchor     28
    stored anchor                            32
    eager syre around fused Adam             52   (the gradient is shifted by the anchor, 12, and back, 12)

Is drawing an anchor again cheaper than reading 4 bytes? Computed, not measured. Instructions per
element, counted in the machine code that Triton 3.7 makes for compute capability 9.0 (all of it, over
the 16 elements that its two branches work on: an upper bound):

                     all   float multiply/add   integer multiply (half of them the high word)   special
    stored anchor     36          14                       0                                       2
    drawn anchor      85          34                       9.5                                     2.5

Philox4x32-10 is 10 rounds of two 32 x 32 -> 64 bit products and four exclusive ors for 4 elements: 10
integer multiplies and, two to an instruction, 5 logic operations each; the rest is Box-Muller. For
comparison, at 128 instructions per cycle and multiprocessor, 64 integer multiplies (32 of the high word,
to be conservative) and 16 special functions, in picoseconds per parameter on the whole device:

                                             memory, 28 bytes   32 bytes   85 instructions   9.5 multiplies
    A100, 108 x 1.41 GHz, 2.04 TB/s               13.7            15.7           4.4               1.5
    H100, 132 x 1.76 GHz, 3.35 TB/s                8.4             9.6           2.9               1.0
    H200, 132 x 1.76 GHz, 4.80 TB/s                5.8             6.7           2.9               1.0

So memory is the limit in each case; drawing uses up to half of the issue slots that it leaves idle, and
should save the time of the 4 bytes, an eighth. This does not hold for the decay alone: see
`plasticity.optim.kernels.decay`.

Nothing here waits for the device, so that a CUDA graph can capture it.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from plasticity.optim.kernels.table import (
    COLUMNS,
    FIRST_MOMENT,
    GRADIENT,
    NUMBERS,
    PARAMETER,
    SECOND_MOMENT,
    STEP,
    chunk_of_program,
    decayed,
    launches,
    scalar_argument,
    tensor_at,
)
from plasticity.optim.kernels.tensor_table import Anchors, Column, TableCache

_ROWS = 128
"""Number of tensors whose step counts one program of the first kernel increments."""


@triton.jit
def count_kernel(
    table: tl.tensor,
    numbers: tl.tensor,
    rate: tl.tensor,
    strength: tl.tensor,
    log_beta1: tl.tensor,
    log_beta2: tl.tensor,
    count: tl.tensor,
    rate_on_device: tl.constexpr,
    decoupled: tl.constexpr,
    rows: tl.constexpr,
) -> None:
    """Increment the step counts, and store the numbers that all elements of a tensor share.

    Computed in float64: for a beta near 1, 1 - beta ** step is a small difference.
    """
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    mask = row < count
    address = tl.load(table + row * COLUMNS + STEP, mask=mask, other=0)
    to_step = address.to(tl.pointer_type(tl.float32))
    step = tl.load(to_step, mask=mask, other=0.0) + 1.0
    tl.store(to_step, step, mask=mask)
    if rate_on_device:
        rate = tl.load(rate)
    wide = step.to(tl.float64)
    correction1 = 1.0 - tl.exp(wide * log_beta1)
    correction2 = 1.0 - tl.exp(wide * log_beta2)
    to_numbers = numbers + row * NUMBERS
    tl.store(to_numbers + 1, (rate / correction1).to(tl.float32), mask=mask)
    tl.store(to_numbers + 2, (1.0 / tl.sqrt(correction2)).to(tl.float32), mask=mask)
    amount = strength
    if decoupled:
        amount = rate * strength
    tl.store(to_numbers + 3, amount, mask=mask)


@triton.jit
def _adam_chunk(
    fields: tl.tensor,
    numbers: tl.tensor,
    start: tl.tensor,
    offsets: tl.tensor,
    mask: tl.tensor,
    weight1: tl.tensor,
    beta2: tl.tensor,
    weight2: tl.tensor,
    epsilon: tl.tensor,
    decays: tl.constexpr,
    decoupled: tl.constexpr,
    maximize: tl.constexpr,
    anchor: tl.constexpr,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    to_parameter = tensor_at(fields, PARAMETER, dtype, aligned) + offsets
    to_gradient = tensor_at(fields, GRADIENT, dtype, aligned) + offsets
    to_first = tensor_at(fields, FIRST_MOMENT, dtype, aligned) + offsets
    to_second = tensor_at(fields, SECOND_MOMENT, dtype, aligned) + offsets
    parameter = tl.load(to_parameter, mask=mask).to(tl.float32)
    gradient = tl.load(to_gradient, mask=mask).to(tl.float32)
    first = tl.load(to_first, mask=mask).to(tl.float32)
    second = tl.load(to_second, mask=mask).to(tl.float32)
    if maximize:
        gradient = -gradient
    if decays:
        parameter, gradient = decayed(
            *(parameter, gradient, tl.load(numbers + 3), fields, tl.load(numbers)),
            *(start, offsets, mask, decoupled, anchor, dtype, aligned, chunk),
        )
    first = first + weight1 * (gradient - first)
    second = beta2 * second + weight2 * (gradient * gradient)
    denominator = tl.sqrt(second) * tl.load(numbers + 2) + epsilon
    parameter = parameter - tl.load(numbers + 1) * (first / denominator)
    tl.store(to_parameter, parameter.to(dtype), mask=mask)
    tl.store(to_first, first.to(dtype), mask=mask)
    tl.store(to_second, second.to(dtype), mask=mask)


@triton.jit
def adam_kernel(
    table: tl.tensor,
    program_rows: tl.tensor,
    numbers: tl.tensor,
    weight1: tl.tensor,
    beta2: tl.tensor,
    weight2: tl.tensor,
    epsilon: tl.tensor,
    decays: tl.constexpr,
    decoupled: tl.constexpr,
    maximize: tl.constexpr,
    anchor: tl.constexpr,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """Update one chunk of one tensor, and its moments."""
    row, fields, elements, start, offsets = chunk_of_program(table, program_rows, chunk)
    # A whole chunk needs no mask, which would prevent the 16-byte reads.
    if start + chunk <= elements:
        _adam_chunk(
            *(fields, numbers + row * NUMBERS, start, offsets, None),
            *(weight1, beta2, weight2, epsilon),
            *(decays, decoupled, maximize, anchor, dtype, aligned, chunk),
        )
    else:
        _adam_chunk(
            *(fields, numbers + row * NUMBERS, start, offsets, offsets < elements),
            *(weight1, beta2, weight2, epsilon),
            *(decays, decoupled, maximize, anchor, dtype, aligned, chunk),
        )


@torch.compiler.disable  # it reads addresses, which do not exist in a compiled step
def adam_step_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first_moments: Sequence[Tensor],
    second_moments: Sequence[Tensor],
    steps: Sequence[Tensor],
    anchors: Anchors,
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    strength: float,
    decoupled: bool,
    maximize: bool = False,
    cache: TableCache | None = None,
) -> None:
    """Take one step of Adam with a decay toward the anchors, in place.

    Two launches for any number of tensors: the first increments the step counts, as in torch's fused form.

    Args:
        parameters: theta, all float32 or bfloat16 (the arithmetic is in float32); changed. Dense, in
            any memory format.
        gradients: One tensor for each parameter, of its dtype and layout; not changed.
        first_moments: One tensor for each parameter, likewise; changed.
        second_moments: One tensor for each parameter, likewise; changed.
        steps: Steps done so far, one float32 scalar tensor for each parameter, on its device; changed.
        anchors: One tensor for each parameter, of its dtype and layout; or a `DrawnAnchor` for each
            (the parameters must then be contiguous); or None for zero.
        lr: Learning rate; a tensor of one element stays on the device.
        betas: Coefficients of the two moments.
        eps: Term added to the denominator.
        strength: Strength in the sense of torch's `weight_decay`; 0 for no decay.
        decoupled: Apply the decay as AdamW, or else add it to the gradient, as Adam.
        maximize: Step along the gradient, not against it.
        cache: Cache that keeps the tables of addresses between calls.
    """
    columns = {
        Column.PARAMETER: parameters,
        Column.GRADIENT: gradients,
        Column.FIRST_MOMENT: first_moments,
        Column.SECOND_MOMENT: second_moments,
        Column.STEP: steps,
    }
    beta1, beta2 = betas
    for table, constants in launches(columns, anchors if strength else None, cache):
        rate, rate_on_device = scalar_argument(lr, table.key.device)
        count_kernel[(triton.cdiv(table.count, _ROWS),)](
            *(table.fields, table.numbers, rate, float(strength)),
            *(_logarithm(beta1), _logarithm(beta2), table.count),
            rate_on_device=rate_on_device,
            decoupled=decoupled,
            rows=_ROWS,
            num_warps=4,
        )
        adam_kernel[(table.programs,)](
            *(table.fields, table.program_rows, table.numbers),
            *(1.0 - beta1, float(beta2), 1.0 - beta2, float(eps)),
            decays=strength != 0,
            decoupled=decoupled,
            maximize=maximize,
            **constants,
        )


def _logarithm(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
