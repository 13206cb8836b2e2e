"""Seeded noise: bits by hand, the mean of a dropout, the range and the middle of random slopes."""

import pytest
import torch
from torch.nn import functional

from plasticity.modules.noise import (
    RandomizedLeakyReLU,
    RandomSlopes,
    SeededDropout,
    random_bits,
)


def mixed(number):
    """Return a number mixed by lowbias32, in Python's integers."""
    number ^= number >> 16
    number = number * 0x7FEB352D % 2**32
    number ^= number >> 15
    number = number * 0x846CA68B % 2**32
    return number ^ number >> 16


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**31 + 5])
def test_bits_are_those_of_the_hash_without_overflow(seed):
    found = random_bits(torch.tensor(seed), torch.tensor(7), torch.arange(3))
    key = mixed(mixed(mixed(seed >> 32) ^ seed % 2**32) ^ 7)
    other = mixed(key ^ 0xFFFFFFFF)
    assert found.tolist() == [mixed((mixed(each ^ key) + other) % 2**32) for each in range(3)]


def test_a_quarter_is_dropped_and_the_mean_stays():
    """Over 1000 passes, each entry's mean is within 5 standard errors of itself, and so is the share."""
    layer, features = SeededDropout(0.25, seed=5), torch.tensor([1.0, -2.0, 0.0, 4.0] * 8)
    outputs = torch.stack([layer(features) for _ in range(1000)])
    error = features.abs() * (0.25 / 0.75 / 1000) ** 0.5
    assert ((outputs.mean(0) - features).abs() <= 5 * error).all()
    kept = outputs[:, features != 0] != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=5 * (0.1875 / 24_000) ** 0.5)
    assert outputs[:, 0].unique().tolist() == pytest.approx([0.0, 4 / 3])
    # Neither the passes nor the entries go together: covariances within 5 standard errors of 0.
    centred = kept.float() - 0.75
    for shifted in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(shifted.mean().item()) < 5 * 0.1875 / shifted.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_slopes_are_uniform_in_their_range(dtype):
    """Their mean is within 5 standard errors of the middle, and so is their variance of width**2 / 12."""
    layer, sums = (
        RandomSlopes(0.25, 0.75, sharpness=None, seed=3),
        -torch.ones(100_000, dtype=dtype),
    )
    slopes = layer(sums).double()
    assert layer(sums).dtype == dtype
    assert slopes.min() >= 0.25
    assert slopes.max() <= 0.75
    assert slopes.mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 12**0.5 / 100_000**0.5)
    assert slopes.var().item() == pytest.approx(1 / 48, rel=0.02)
    assert not torch.equal(layer(sums), layer(sums))
    assert layer.passes == 4
    assert (layer(-sums) == 1).all()


def test_evaluation_has_the_middle_slope_and_draws_nothing():
    sums = torch.linspace(-4, 4, 9, dtype=torch.float64)
    hard = RandomizedLeakyReLU(sharpness=None).eval()
    # (1/8 + 1/3) / 2 = 11/48 = 0.22917
    torch.testing.assert_close(hard(sums), functional.leaky_relu(sums, 11 / 48))
    smooth = RandomizedLeakyReLU().eval()
    expected = sums * (11 / 48 + 37 / 48 * torch.sigmoid(5 / 3 * sums))
    torch.testing.assert_close(smooth(sums), expected)
    assert hard.passes == smooth.passes == 0


def test_without_a_range_it_is_a_leaky_relu_in_training_too():
    sums = torch.randn(50, generator=torch.Generator().manual_seed(0))
    layer = RandomizedLeakyReLU(0.25, 0.25, sharpness=None)
    torch.testing.assert_close(layer(sums), functional.leaky_relu(sums, 0.25), rtol=0, atol=0)


def test_noise_depends_on_seed_and_pass_alone():
    one, other, third = (RandomSlopes(seed=seed) for seed in (1, 1, 2))
    sums = torch.zeros(20)
    first = one(sums - 1)
    assert torch.equal(first, other(sums - 1))
    assert not torch.equal(first, third(sums - 1))
    third.load_state_dict(one.state_dict())
    assert torch.equal(one(sums - 1), third(sums - 1))
