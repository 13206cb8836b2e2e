import math

import pytest
import torch
from torch import nn

from plasticity.initialization import Constant, Normal, Orthogonal, Uniform, torch_default


def drawn(distribution, shape, seed=0):
    weights = torch.full(shape, 9.0)
    distribution.draw_(weights, torch.Generator().manual_seed(seed))
    return weights


def test_a_constant_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    weights = torch.ones(2, 3)
    Constant(0.5).draw_(weights, generator)
    assert (weights == 0.5).all()
    assert torch.equal(before, generator.get_state())


@pytest.mark.parametrize(
    ("distribution", "deviation"),
    # a uniform distribution on (-b, b) has the variance b**2 / 3
    [(Uniform(0.6), 0.6 / math.sqrt(3)), (Normal(0.25), 0.25)],
)
def test_spread(distribution, deviation):
    weights = drawn(distribution, (200, 500))
    assert weights.std().item() == pytest.approx(deviation, rel=0.01)
    assert weights.mean().item() == pytest.approx(0, abs=0.01)
    assert torch.equal(weights, drawn(distribution, (200, 500)))


def test_a_normal_distribution_has_its_mean():
    assert drawn(Normal(0.1, 2.0), (10_000,)).mean().item() == pytest.approx(2.0, abs=0.01)


def test_orthogonal_rows():
    weights = drawn(Orthogonal(2.0), (3, 8))
    torch.testing.assert_close(weights @ weights.mT, 4 * torch.eye(3))


@pytest.mark.parametrize("layer", [nn.Linear(12, 400), nn.Conv2d(3, 400, 2)])
def test_the_default_of_torch_is_that_of_its_layers(layer):
    # Both have 12 inputs to each unit: bounds of 1 / sqrt(12) for weights and biases.
    bound = torch_default(12).bound
    for tensor in (layer.weight, layer.bias):
        assert 0.95 * bound < tensor.abs().max().item() <= bound
