"""Tests of the decay against formulas written out in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity.optim.decay import (
    decay_direction,
    decay_toward_,
    decayed_gradients,
    shift_gradients_,
    shifted_gradients,
)


def lists(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), ()]

    def draw():
        return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes[:count]]

    return draw(), draw(), draw(), [f.abs() + 0.1 for f in draw()]


cases = pytest.mark.parametrize("with_anchor", [False, True])
factor_cases = pytest.mark.parametrize("with_factors", [False, True])
tensor_cases = pytest.mark.parametrize("as_tensor", [False, True])


@cases
@factor_cases
@tensor_cases
@given(seed=st.integers(0, 10_000), amount=st.floats(-2, 2))
def test_both_forms(seed, amount, with_anchor, with_factors, as_tensor):
    gradients, parameters, anchors, factors = lists(seed)
    anchors = anchors if with_anchor else None
    factors = factors if with_factors else None
    scale = torch.tensor(amount, dtype=torch.float64) if as_tensor else amount
    before = [p.clone() for p in parameters]
    gradients_before = [g.clone() for g in gradients]
    pull = [
        (factors[i] if with_factors else 1) * (p - (anchors[i] if with_anchor else 0))
        for i, p in enumerate(parameters)
    ]
    for found, expected in zip(decay_direction(parameters, anchors, factors), pull, strict=True):
        torch.testing.assert_close(found, expected)
    joined = decayed_gradients(gradients, parameters, anchors, scale, factors)
    for found, gradient, direction in zip(joined, gradients, pull, strict=True):
        torch.testing.assert_close(found, gradient + amount * direction)
    assert all(map(torch.equal, parameters, before))
    assert all(map(torch.equal, gradients, gradients_before))
    decay_toward_(parameters, anchors, scale, factors)
    for found, start, direction in zip(parameters, before, pull, strict=True):
        torch.testing.assert_close(found, start - amount * direction)


def test_by_hand():
    # theta 3, anchor 1, D 2, strength 0.1: gradient 5 + 0.1 * 2 * (3 - 1) = 5.4
    theta, anchor, factor = (torch.tensor([v]) for v in (3.0, 1.0, 2.0))
    (joined,) = decayed_gradients([torch.tensor([5.0])], [theta], [anchor], 0.1, [factor])
    assert joined.item() == pytest.approx(5.4)
    # moved by 0.1 of the way: 3 - 0.1 * (3 - 1) = 2.8
    decay_toward_([theta], [anchor], 0.1)
    assert theta.item() == pytest.approx(2.8)


@cases
@factor_cases
@given(seed=st.integers(0, 10_000))
def test_stacked_networks_decay_as_each_alone(seed, with_anchor, with_factors):
    gradients, parameters, anchors, factors = (
        [torch.stack(same) for same in zip(*networks, strict=True)]
        for networks in zip(*(lists(seed + i, count=1) for i in range(3)), strict=True)
    )
    anchors = anchors if with_anchor else None
    factors = factors if with_factors else None
    strengths = torch.tensor([0.3, 0.0, -1.2], dtype=torch.float64)
    amounts = strengths.view(3, 1, 1)
    joined = decayed_gradients(gradients, parameters, anchors, amounts, factors)
    moved = [p.clone() for p in parameters]
    decay_toward_(moved, anchors, amounts, factors)
    for i, strength in enumerate(strengths.tolist()):
        theta = [p[i].clone() for p in parameters]
        own = [None if each is None else [t[i] for t in each] for each in (anchors, factors)]
        alone = decayed_gradients([g[i] for g in gradients], theta, own[0], strength, own[1])
        torch.testing.assert_close([j[i] for j in joined], alone)
        decay_toward_(theta, own[0], strength, own[1])
        torch.testing.assert_close([m[i] for m in moved], theta)


def test_shifted_gradients_and_the_bases_decay_are_the_coupled_decay():
    (gradient,), (theta,), (anchor,), _ = lists(0, count=1)
    shifted = shifted_gradients([gradient], [anchor], 0.3)
    whole = decayed_gradients([gradient], [theta], [anchor], 0.3)
    torch.testing.assert_close(shifted[0] + 0.3 * theta, whole[0])
    restored = shifted[0].clone()
    shift_gradients_([restored], [anchor], -0.3)
    torch.testing.assert_close(restored, gradient)
