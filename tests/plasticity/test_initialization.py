import math

import pytest
import torch
from torch import nn

from plasticity.initialization import (
    Constant,
    Normal,
    Orthogonal,
    Uniform,
    scheme_distribution,
    scheme_gain,
    torch_default,
)


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


@pytest.mark.parametrize("drawn_rows", [1, 3, 8])
def test_some_rows_of_a_tall_orthogonal_matrix_are_as_long_as_in_the_whole(drawn_rows):
    # 8 rows share two columns of length 3: the mean square of a row's length is 9 · 2 / 8.
    rows = torch.cat([drawn(Orthogonal(3.0, rows=8), (drawn_rows, 2), seed=s) for s in range(4)])
    assert rows.square().sum(1).mean().item() == pytest.approx(9 * 2 / 8, rel=1e-4)
    # A wide one has rows of length 3, however many are drawn.
    wide = drawn(Orthogonal(3.0, rows=4), (drawn_rows, 16)[:2] if drawn_rows < 4 else (4, 16))
    assert wide.square().sum(1).tolist() == pytest.approx([9.0] * len(wide), rel=1e-4)


def test_schemes_of_a_convolution():
    shape = (6, 2, 3, 3)  # fan-in 18, fan-out 54
    assert scheme_distribution("torch", shape) == torch_default(18)
    assert scheme_distribution("lecun", shape, 2.0) == Uniform(2 * math.sqrt(3 / 18))
    assert scheme_distribution("kaiming", shape, math.sqrt(2)).deviation == pytest.approx(1 / 3)
    assert scheme_distribution("kaiming-uniform", shape, 2.0) == Uniform(2 * math.sqrt(3 / 18))
    assert scheme_distribution("xavier", shape).bound == pytest.approx(math.sqrt(6 / 72))
    assert scheme_distribution("orthogonal", shape, 0.5) == Orthogonal(0.5, 6)
    gains = [scheme_gain(scheme) for scheme in ("kaiming", "orthogonal", "xavier", "torch")]
    assert gains == [math.sqrt(2), math.sqrt(2), 1.0, 1.0]
    for activation, *torchs in (
        ("relu", "relu"),
        ("tanh", "tanh"),
        ("leaky-relu", "leaky_relu"),
        ("leaky-relu-0.1", "leaky_relu", 0.1),
    ):
        expected = torch.nn.init.calculate_gain(*torchs)
        assert scheme_gain("kaiming-uniform", activation) == pytest.approx(expected)
    assert scheme_gain("kaiming-uniform", "silu") == math.sqrt(2)
    with pytest.raises(ValueError, match="Did you mean 'xavier'"):
        scheme_distribution("xavie", shape)
