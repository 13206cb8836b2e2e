"""Random anchors that syre decays toward, each a pure function of (seed, position, element index).

A checkpoint therefore needs one integer instead of a copy of the network. The integers come from
the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011), the normals from the Box-Muller map, always in float32: the result is the same on every device
to a few units in the last place, whatever the dtype of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticity.optim.sharded import is_sharded, local_elements, local_part, sharded_like

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# Elements drawn at once: keeps the int64 temporaries to a few megabytes.
_CHUNK = 1 << 17

# The last counter word separates the two families of draws.
_NORMAL_STREAM = 0
_UNIFORM_STREAM = 1


def philox_4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, ...]:
    """Apply ten rounds of Philox4x32 to 32-bit words held in int64 tensors.

    Args:
        counter: The four counter words. Each of shape (...), values 0 to 2**32 - 1.
        seed: The 64-bit key, 0 to 2**64 - 1.

    Returns:
        Four words of shape (...), uniform on 0 to 2**32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, seed >> 32
    for _ in range(_ROUNDS):
        # A product of two words wraps in int64; its 64 bits are correct all the same, and the mask
        # removes the sign bits that the arithmetic shift brings in.
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _WORD) ^ c1 ^ k0,
            product_1 & _WORD,
            ((product_0 >> 32) & _WORD) ^ c3 ^ k1,
            product_0 & _WORD,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _unit_interval(words: Tensor) -> Tensor:
    """Map words to float32 in (0, 1): the upper 23 bits and a half, exact, never 0 or 1."""
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


def _words(
    seed: int, position: int, blocks: Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    zero = torch.zeros_like(blocks)
    counter = (blocks & _WORD, blocks >> 32, zero + position, zero + stream)
    c0, c1, c2, c3 = philox_4x32(counter, seed)
    return c0, c1, c2, c3


def _lanes(seed: int, position: int, blocks: Tensor, stream: int) -> Tensor:
    """Draw the four numbers of each counter block, in float32. Shape: (blocks, 4)."""
    uniforms = [_unit_interval(word) for word in _words(seed, position, blocks, stream)]
    if stream == _NORMAL_STREAM:
        uniforms = [*_box_muller(*uniforms[:2]), *_box_muller(*uniforms[2:])]
    return torch.stack(uniforms, dim=-1)


def _fill(
    like: Tensor, seed: int, position: int, stream: int, finish: Callable[[Tensor], Tensor]
) -> Tensor:
    """Fill a tensor like `like` with random numbers: element i is lane i % 4 of counter block i // 4.

    `finish` maps the float32 draws (in place) to the values. The numbers are drawn chunk by chunk, so
    that only the result takes memory in proportion to its size. Of a sharded tensor, the elements that are
    in this process are drawn.
    """
    local = local_part(like)
    device = _drawing_device(local.device)
    elements = local_elements(like).reshape(-1).to(device) if is_sharded(like) else None
    drawn = torch.empty(local.numel(), dtype=local.dtype, device=local.device)
    for start in range(0, len(drawn), _CHUNK):
        stop = min(start + _CHUNK, len(drawn))
        if elements is None:
            blocks = torch.arange(start // 4, -(-stop // 4), device=device)
            lanes = _lanes(seed, position, blocks, stream).reshape(-1)[: stop - start]
        else:
            chosen = elements[start:stop]
            lanes = _lanes(seed, position, chosen // 4, stream)
            lanes = lanes.gather(1, (chosen % 4).unsqueeze(1)).squeeze(1)
        drawn[start:stop] = finish(lanes)
    if elements is not None:
        return sharded_like(drawn.view(local.shape), like)
    shaped = drawn.view(like.shape)
    return shaped if like.is_contiguous() else torch.empty_like(like).copy_(shaped)


def _box_muller(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    radius = torch.sqrt(-2.0 * torch.log(u))
    angle = (2.0 * math.pi) * v
    return radius * torch.cos(angle), radius * torch.sin(angle)


def _drawing_device(device: torch.device) -> torch.device:
    # 64-bit integer arithmetic is not reliable on every back end (mps): for those, anchors are drawn
    # on the CPU, once, and moved.
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


@torch.no_grad()
def syre_anchor(like: Tensor, *, seed: int, position: int, standard_deviation: float) -> Tensor:
    """Draw the anchor theta_0 of one parameter (syre, Ziyin et al., ICLR 2025, Eq. 6).

    Args:
        like: The parameter: gives shape, dtype, device and memory format. Shape: (...).
        seed: `anchor_seed`, 0 to 2**64 - 1.
        position: Position of the parameter in the optimizer, counted over all its groups.
        standard_deviation: Standard deviation of the normal, usually sigma / sqrt(fan_in), in units of
            the parameter.

    Returns:
        Independent normals of mean 0. Shape: that of `like`. Element i in row-major order depends
        on (seed, position, i) alone, not on the shape, dtype, device or memory format, nor on how
        the parameter is sharded: each process draws its own part of a `DTensor`.
    """
    return _fill(like, seed, position, _NORMAL_STREAM, lambda n: n.mul_(standard_deviation))


@torch.no_grad()
def anisotropy_factors(like: Tensor, *, seed: int, position: int, anisotropy: float) -> Tensor:
    """Draw the diagonal of D = 1 + anisotropy * U, U uniform on (-sqrt(3), sqrt(3)) (syre, Eq. 7).

    Args:
        like: The parameter. Shape: (...).
        seed: `anchor_seed`, 0 to 2**64 - 1.
        position: Position of the parameter in the optimizer, counted over all its groups.
        anisotropy: Standard deviation of the diagonal, at least 0 and below 1/sqrt(3), so that all
            entries are positive.

    Returns:
        Factors of mean 1. Shape: that of `like`.
    """
    spread = anisotropy * math.sqrt(3.0)
    return _fill(
        like,
        seed,
        position,
        _UNIFORM_STREAM,
        lambda u: u.mul_(2.0).sub_(1.0).mul_(spread).add_(1.0),
    )
