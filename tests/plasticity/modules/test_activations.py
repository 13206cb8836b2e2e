"""Activations: the field book's examples, norms, derivatives, and the axes of their outputs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plasticity import CReLU, FourierFeatures, SmoothLeakyReLU


def derivative(function, at):
    at = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    return torch.autograd.functional.jacobian(function, at)


def test_by_hand():
    assert CReLU()(torch.tensor([1.0, -2.0])).tolist() == [1, 0, 0, 2]
    # sin 0 = 0, sin(pi / 2) = 1; cos 0 = 1, cos(pi / 2) = 0
    found = FourierFeatures()(torch.tensor([0.0, math.pi / 2], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0, 1, 1, 0], abs=1e-15)
    # 0.1 * 0.6 + 0.9 * 0.6 * sigmoid(5 * 0.6 / 3) = 0.06 + 0.54 * 0.731059 = 0.454772
    assert SmoothLeakyReLU()(torch.tensor(0.6)).item() == pytest.approx(0.454772, abs=1e-6)


def test_smooth_leaky_relu_far_from_0_and_at_0():
    layer = SmoothLeakyReLU().double()
    found = layer(torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([-10, 0, 100])
    # f'(0) = a + (1 - a) / 2 = 0.1 + 0.45
    assert derivative(layer, 0.0).item() == pytest.approx(0.55)


@given(st.floats(-1e3, 1e3))
def test_a_units_two_outputs_have_norm_and_derivative_1(z):
    sums = torch.tensor([z], dtype=torch.float64)
    assert CReLU()(sums).norm().item() == pytest.approx(abs(z), abs=1e-150)  # squares underflow
    assert FourierFeatures()(sums).norm().item() == pytest.approx(1)
    slopes = derivative(FourierFeatures(), [z])
    assert slopes.flatten().tolist() == pytest.approx([math.cos(z), -math.sin(z)])
    assert slopes.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", [CReLU, FourierFeatures])
def test_outputs_lie_along_the_axis_of_the_units(kind):
    maps = torch.randn(2, 3, 4, 4)
    found = kind(dim=-3)(maps)
    assert found.shape == (2, 6, 4, 4)
    moved = kind()(maps.movedim(1, -1)).movedim(-1, 1)
    assert torch.equal(found, moved)
