"""Kernel alignment: by hand, its invariances, its baseline."""

import math

import pytest
import torch

from plasticity import kernel_alignment


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand():
    one = torch.tensor([[1.0], [0.0]])
    both = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Gram matrices diag(1, 0) and I: 1 / (1 · √2). Orthogonal samples: 0.
    assert kernel_alignment(one, both).item() == pytest.approx(1 / math.sqrt(2))
    assert kernel_alignment(one, one.flip(0)).item() == 0.0


def test_rotations_and_scales_change_nothing_and_other_maps_do():
    features = normal(20, 4)
    rotation = torch.linalg.qr(normal(6, 4, seed=1)).Q.T
    assert kernel_alignment(features, 1e-30 * features @ rotation).item() == pytest.approx(1.0)
    stretched = features * torch.tensor([1.0, 1.0, 1.0, 9.0], dtype=torch.float64)
    assert kernel_alignment(features, stretched).item() < 0.9


def test_it_is_the_cosine_of_the_gram_matrices():
    first, second = normal(3, 7, 4), normal(3, 7, 2, seed=1)
    grams = [(each @ each.mT).flatten(1) for each in (first, second)]
    expected = torch.cosine_similarity(*grams, dim=1)
    torch.testing.assert_close(kernel_alignment(first, second), expected)


def test_unrelated_features_are_near_0():
    found = kernel_alignment(normal(4000, 4), normal(4000, 9, seed=1)).item()
    assert found == pytest.approx(6 / 4000, rel=0.6)


def test_features_without_a_direction_have_no_alignment():
    features = normal(5, 2).float()
    found = kernel_alignment(features, torch.zeros(5, 3))
    assert found.isnan()
    assert found.dtype == torch.float32


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="not of the same samples"):
        kernel_alignment(normal(5, 2), normal(4, 2))
    with pytest.raises(TypeError, match="real"):
        kernel_alignment(normal(5, 2), torch.zeros(5, 2, dtype=torch.int64))
