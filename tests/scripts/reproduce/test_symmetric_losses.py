"""Losses with symmetries: groups by hand, invariance, and the mean of the smallest of normal numbers."""

import math

import pytest
import torch

from plasticity.scripts.reproduce.symmetric_losses import (
    GROUPS,
    MANY,
    neurons_of,
    smallest_of_normals,
    symmetric_loss,
)
from plasticity.symmetry import group_projector, reflection_matrix


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "order", "elements", "size", "broken"),
    [
        ("reflection", 3, 2, 64, 3),
        ("reflection", 1, 2, 64, 1),
        ("permutation", 4, 24, 16, 12),  # three neurons' worth of differences, 4 weights each
        ("cyclic", 4, 4, 16, 12),
        ("cyclic", 2, 2, 8, 4),
    ],
)
def test_groups(name, order, elements, size, broken):
    matrices, projector = GROUPS[name](order, draws())
    assert matrices.shape == (elements, size, size)
    symmetric = group_projector(matrices)  # which refuses what is no group
    assert round(size - symmetric.trace().item()) == broken
    mirror = reflection_matrix(projector)
    assert any(torch.allclose(each, mirror) for each in matrices)
    torch.testing.assert_close(projector @ projector, projector)
    loss, theta = symmetric_loss(matrices, draws(1)), torch.randn(size, dtype=torch.float64)
    values = torch.stack([loss(each @ theta) for each in matrices])
    torch.testing.assert_close(values, values[:1].expand(elements))
    assert (loss(theta) - loss(-theta.flip(0))).abs() > 1e-3


@pytest.mark.parametrize("name", MANY)
def test_images_by_many_reflections_have_the_same_loss_and_norm(name):
    loss, theta, images = MANY[name](6, draws())
    assert len(images) == 6
    for image in images:
        torch.testing.assert_close(loss(image), loss(theta))
        torch.testing.assert_close(image.norm(), theta.norm())
        assert (image - theta).norm() > 1e-3
    assert len({tuple(image.tolist()) for image in images}) == 6
    assert (loss(images[0]) - loss(2 * theta)).abs() > 1e-3


def test_swaps_exchange_each_pair_of_neurons_once():
    _, theta, images = MANY["swaps"](3, draws())
    first, second, third = theta.view(3, 4)
    expected = [[second, first, third], [third, second, first], [first, third, second]]
    for image, neurons in zip(images, expected, strict=True):
        assert torch.equal(image, torch.cat(neurons))
    assert [neurons_of(pairs) for pairs in (1, 2, 3, 6, 2016)] == [2, 2, 3, 4, 64]


def test_the_mean_of_the_smallest_of_normal_numbers():
    assert smallest_of_normals(1, 2.0) == pytest.approx(2 * math.sqrt(2 / math.pi), rel=1e-4)
    # of two, by hand: the mean of min(|x|, |y|) is (2 √2 - 2) / √π
    assert smallest_of_normals(2, 1.0) == pytest.approx(2 * (2**0.5 - 1) / math.pi**0.5, rel=1e-4)
    many = smallest_of_normals(1000, 3.0)
    assert many == pytest.approx(3 * math.sqrt(math.pi / 2) / 1000, rel=0.01)
