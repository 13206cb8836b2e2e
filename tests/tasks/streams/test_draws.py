"""Draws of streams: against numbers that are written down, and as draws should be distributed."""

import torch

from plasticity.tasks.streams.draws import random_integers, random_order, random_uniforms


def test_draws_never_change():
    # PCG64(SeedSequence(3, spawn_key=(1,))).random_raw(5): the last digits, and the order of the numbers
    assert random_integers(5, 10, 3, 1).tolist() == [2, 1, 0, 1, 7]
    assert random_order(5, 3, 1).tolist() == [0, 2, 1, 4, 3]
    assert random_order(5, 2**80).tolist() == [1, 4, 3, 2, 0]


def test_keys_tell_draws_apart_and_longer_draws_begin_as_shorter_ones():
    drawn = [
        tuple(random_integers(20, 100, 7, *keys).tolist()) for keys in ((), (0,), (1,), (0, 1))
    ]
    assert len(set(drawn)) == 4
    assert tuple(random_integers(30, 100, 7, 1).tolist()[:20]) == drawn[2]


def test_integers_are_uniform():
    drawn = random_integers(100_000, 10, 0, 4)
    # a count has mean 10000 and standard deviation sqrt(100000 * 0.1 * 0.9) = 95: five of them are 474
    assert (drawn.bincount(minlength=10) - 10_000).abs().max() < 474
    assert drawn.dtype == torch.int64


def test_an_order_has_every_position_once():
    order = random_order(1000, 5)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, torch.arange(1000))


def test_uniform_numbers_are_the_highest_bits_of_the_same_integers():
    numbers = random_uniforms(1000, 3, 1)
    assert numbers.dtype == torch.float32
    scaled = numbers.double() * 2**24
    assert torch.equal(scaled, scaled.round())
    assert scaled[:3].tolist() == [1683359, 10611822, 8873192]
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # means of 1000 uniform numbers have a standard deviation of 0.0091
    assert abs(numbers.mean() - 0.5) < 0.046
