"""Tests of the anchor drawn in a kernel against `syre_anchor` and float64 functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plasticity.optim.anchors import _box_muller, _unit_interval, _words, syre_anchor
from plasticity.optim.kernels.tensor_table import DrawnAnchor

triton = pytest.importorskip("triton", reason="needs triton (Linux only)")
tl = pytest.importorskip("triton.language")
INTERPRETED = triton.knobs.runtime.interpret
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(
        "needs a CUDA device (test_step.py runs this in Triton's interpreter)",
        allow_module_level=True,
    )
DEVICE = "cpu" if INTERPRETED else "cuda"

from plasticity.optim.kernels.anchor import drawn_normals, sine_and_cosine  # noqa: E402
from plasticity.optim.kernels.decay import decay_toward_  # noqa: E402


def drawn(shape, anchor, dtype=torch.float32):
    """Return the anchor, exactly: 0 - 1 * (0 - anchor)."""
    parameter = torch.zeros(shape, dtype=dtype, device=DEVICE)
    decay_toward_([parameter], [anchor], 1.0)
    return parameter


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 2100),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**32 - 1),
    deviation=st.floats(1e-3, 10),
)
@example(count=1024, seed=2**64 - 1, position=0, deviation=1.0)
@example(count=1025, seed=2**63, position=2**32 - 1, deviation=0.5)
def test_equals_the_stored_anchor(count, seed, position, deviation):
    found = drawn((count,), DrawnAnchor(seed, position, deviation))
    expected = syre_anchor(found, seed=seed, position=position, standard_deviation=deviation)
    # 8 units in the last place: logarithm, root, sine and products round once each
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_many_elements_and_another_shape():
    found = drawn((3, 5, 7, 111), DrawnAnchor(2**63 + 5, 9, 0.3))
    expected = syre_anchor(found, seed=2**63 + 5, position=9, standard_deviation=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_bfloat16_is_rounded_like_the_stored_anchor():
    found = drawn((1500,), DrawnAnchor(4, 1, 0.3), torch.bfloat16)
    expected = syre_anchor(found, seed=4, position=1, standard_deviation=0.3)
    # Triton's interpreter truncates where the device rounds: one unit of 8 digits
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)
    # on the device a difference in the last float32 digit seldom changes the rounding
    assert INTERPRETED or (found != expected).float().mean() < 0.01


@triton.jit
def store_normals(out, first_block, seed, position, count: tl.constexpr):
    normals = drawn_normals(tl.load(first_block), tl.load(seed), tl.load(position), count)
    tl.store(out + tl.arange(0, count), normals)


@pytest.mark.parametrize("first_block", [0, 1, 2**30, 2**32 - 3, 2**33 + 1])
def test_blocks_beyond_32_bits(first_block):
    seed, position, count = 2**63 + 77, 2**31 + 3, 64
    out = torch.empty(count, device=DEVICE)
    integers = [
        torch.tensor([value], device=DEVICE) for value in (first_block, seed - 2**64, position)
    ]
    store_normals[(1,)](out, *integers, count=count)
    words = _words(seed, position, torch.arange(first_block, first_block + count // 4), 0)
    u = [_unit_interval(word) for word in words]
    expected = torch.stack([*_box_muller(*u[:2]), *_box_muller(*u[2:])], dim=-1).flatten()
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-6, atol=0)


@triton.jit
def store_sine_and_cosine(angles, sines, cosines, count: tl.constexpr):
    offsets = tl.program_id(0) * count + tl.arange(0, count)
    sine, cosine = sine_and_cosine(tl.load(angles + offsets))
    tl.store(sines + offsets, sine)
    tl.store(cosines + offsets, cosine)


def test_sine_and_cosine_of_every_possible_angle():
    # 2**23 angles; every eighth in the interpreter
    stride = 8 if INTERPRETED else 1
    count = torch.arange(0, 2**23, stride, dtype=torch.float32, device=DEVICE)
    uniform = (count + 0.5) * 2.0**-23
    angles = (2 * math.pi) * uniform
    sines, cosines = torch.empty_like(angles), torch.empty_like(angles)
    store_sine_and_cosine[(8,)](angles, sines, cosines, count=2**20 // stride)
    exact = angles.cpu().numpy().astype(np.float64)
    np.testing.assert_allclose(sines.cpu().numpy(), np.sin(exact), rtol=2e-7, atol=0)
    np.testing.assert_allclose(cosines.cpu().numpy(), np.cos(exact), rtol=2e-7, atol=0)
