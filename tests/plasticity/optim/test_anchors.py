"""Tests of the anchor against published vectors of its generator and a float64 version of its map."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.optim.anchors import anisotropy_factors, philox_4x32, syre_anchor

# Random123's known answers for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    words = tuple(torch.tensor([word]) for word in counter)
    found = philox_4x32(words, key[0] | key[1] << 32)
    assert " ".join(f"{int(word):08x}" for word in found) == expected


def scalar_philox(counter, seed):
    """Compute the same generator in Python's unbounded integers, written from the paper."""
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (p1 >> 32) ^ c[1] ^ k[0],
            p1 & 0xFFFFFFFF,
            (p0 >> 32) ^ c[3] ^ k[1],
            p0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.integers(0, 2**64 - 1))
def test_philox_equals_unbounded_integers(counter, seed):
    found = philox_4x32(tuple(torch.tensor([word]) for word in counter), seed)
    assert [int(word) for word in found] == scalar_philox(counter, seed)


def test_anchor_equals_a_float64_version():
    seed, position, count = 2**63 + 12345, 7, 41
    anchor = syre_anchor(torch.empty(count), seed=seed, position=position, standard_deviation=1.0)
    expected = []
    for block in range(math.ceil(count / 4)):
        u = [((word >> 9) + 0.5) / 2**23 for word in scalar_philox([block, 0, position, 0], seed)]
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            radius = math.sqrt(-2 * math.log(a))
            expected += [radius * math.cos(2 * math.pi * b), radius * math.sin(2 * math.pi * b)]
    # the float32 angle is at most 2 pi, its rounding error at most 2.4e-7, times a radius of at most 5.8
    np.testing.assert_allclose(anchor.numpy(), expected[:count], rtol=0, atol=3e-6)


def test_anchor_is_normal_with_the_given_deviation():
    anchor = syre_anchor(torch.empty(400_000), seed=3, position=0, standard_deviation=0.25).double()
    # Standard errors of n = 4e5: mean 0.25/632 = 4e-4, deviation 0.25/894 = 2.8e-4, kurtosis 0.008
    assert abs(anchor.mean()) < 5 * 4e-4
    assert abs(anchor.std() - 0.25) < 5 * 2.8e-4
    assert abs(((anchor / 0.25) ** 4).mean() - 3) < 5 * 0.016
    # neighbours (the two lanes of one Box-Muller pair, and the next pair) are uncorrelated
    for lag in (1, 2, 4):
        correlation = (anchor[:-lag] * anchor[lag:]).mean() / 0.25**2
        assert abs(correlation) < 5 / 632


def test_anchor_depends_on_seed_position_and_element_only():
    def draw(like, seed=1, position=2):
        return syre_anchor(like, seed=seed, position=position, standard_deviation=1.0)

    flat = draw(torch.empty(24))
    torch.testing.assert_close(draw(torch.empty(2, 3, 4)).flatten(), flat, rtol=1e-6, atol=0)
    torch.testing.assert_close(draw(torch.empty(11)), flat[:11], rtol=1e-6, atol=0)
    wide = draw(torch.empty(24, dtype=torch.float64))
    torch.testing.assert_close(wide.float(), flat, rtol=1e-6, atol=0)
    last = draw(torch.empty(2, 3, 2, 2).to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.flatten(), flat, rtol=1e-6, atol=0)
    assert not torch.equal(draw(torch.empty(24), seed=2), flat)
    assert not torch.equal(draw(torch.empty(24), position=3), flat)


def test_the_chunk_size_does_not_change_the_anchor(monkeypatch):
    whole = syre_anchor(torch.empty(1000), seed=1, position=0, standard_deviation=1.0)
    monkeypatch.setattr("plasticity.optim.anchors._CHUNK", 64)
    pieces = syre_anchor(torch.empty(1000), seed=1, position=0, standard_deviation=1.0)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0)


def test_drawing_consumes_no_randomness():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    syre_anchor(torch.empty(10), seed=1, position=0, standard_deviation=1.0)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.floats(0.001, 0.577))
def test_factors_are_positive_with_mean_one_and_the_given_deviation(anisotropy):
    factors = anisotropy_factors(
        torch.empty(20_000), seed=9, position=1, anisotropy=anisotropy
    ).double()
    bound = anisotropy * math.sqrt(3)
    assert factors.min() > 0
    assert factors.min() >= 1 - bound - 1e-6
    assert factors.max() <= 1 + bound + 1e-6
    # standard errors: anisotropy / 141 for the mean, about 0.45 of that, relative, for the deviation
    assert abs(factors.mean() - 1) < 5 * anisotropy / 141
    assert abs(factors.std() / anisotropy - 1) < 5 * 0.0045


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_cuda():
    here = syre_anchor(torch.empty(10_001), seed=4, position=1, standard_deviation=1.0)
    there = syre_anchor(
        torch.empty(10_001, device="cuda"), seed=4, position=1, standard_deviation=1.0
    )
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-7)
