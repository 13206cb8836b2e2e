"""Syre's anchor drawn inside a kernel: `syre_anchor` to a few units in the last place, without memory.

The cost is estimated in `plasticity.optim.kernels.adam`.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

# pi / 2 in three parts: multiples up to 4 of the first two are exact in float32, so that the reduced
# angle is exact except for the last digits, with or without fused multiply-adds.
_HALF_PI_HIGH = tl.constexpr(1.5703125)
_HALF_PI_MIDDLE = tl.constexpr(0.0004837512969970703)
_HALF_PI_LOW = tl.constexpr(7.549790126404332e-08)


@triton.jit
def unit_interval(word: tl.tensor) -> tl.tensor:
    """Map 32-bit words to float32 in (0, 1), as `plasticity.optim.anchors._unit_interval`."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2**-23


@triton.jit
def sine_and_cosine(angle: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Compute sine and cosine of angles from 0 to 2 pi, to 2e-7 relative for all 2**23 that can be drawn.

    The two library functions take angles of any size; compiled, they are twice the code.
    The polynomials are minimax fits of (sin x - x) / x^3 and (cos x - 1 + x^2 / 2) / x^4 in x^2
    on |x| <= pi / 4.
    """
    quarters = tl.floor(angle * 0.6366197723675814 + 0.5)  # 2 / pi
    x = angle - quarters * _HALF_PI_HIGH
    x = (x - quarters * _HALF_PI_MIDDLE) - quarters * _HALF_PI_LOW
    z = x * x
    near_sine = -0.16666653752326965 + z * (0.008332150988280773 + z * -0.0001951398007804528)
    near_cosine = 0.04166664555668831 + z * (-0.0013887303648516536 + z * 2.44316688622348e-05)
    sine = x + x * z * near_sine
    cosine = 1.0 - 0.5 * z + z * z * near_cosine
    quadrant = quarters.to(tl.int32)
    swapped = (quadrant & 1) == 1
    first = tl.where(swapped, cosine, sine)
    second = tl.where(swapped, sine, cosine)
    return (
        tl.where((quadrant & 2) != 0, -first, first),
        tl.where(((quadrant + 1) & 2) != 0, -second, second),
    )


@triton.jit
def box_muller(u: tl.tensor, v: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Map two uniforms to two independent normals, as `plasticity.optim.anchors._box_muller`."""
    radius = tl.sqrt(-2.0 * tl.log(u))
    sine, cosine = sine_and_cosine(6.283185307179586 * v)
    return radius * cosine, radius * sine


@triton.jit
def drawn_normals(
    first_block: tl.tensor, seed: tl.tensor, position: tl.tensor, count: tl.constexpr
) -> tl.tensor:
    """Draw standard normals for `count` elements (a multiple of 4), starting at counter block `first_block`.

    Element i of a parameter is lane i % 4 of block i // 4, as in `plasticity.optim.anchors`: a thread
    that holds four neighbours draws each word once.

    Args:
        first_block: First counter block, an int64 scalar.
        seed: The 64 bits of `anchor_seed`, as an int64 scalar.
        position: Position of the parameter in the optimizer, an int64 scalar.
        count: Number of elements.
    """
    block = first_block + tl.arange(0, count // 4)
    zero = tl.zeros_like(block).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(
        seed,
        block.to(tl.uint32),
        (block >> 32).to(tl.uint32),
        zero + position.to(tl.uint32),
        zero,  # the stream of the normals
    )
    n0, n1 = box_muller(unit_interval(w0), unit_interval(w1))
    n2, n3 = box_muller(unit_interval(w2), unit_interval(w3))
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))
