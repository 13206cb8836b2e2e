"""Hyperspherical layers: norms of weights and features, the shift of the inputs, and what is refused."""

import math

import pytest
import torch
from torch import nn

from plasticity import HypersphericalLayer
from plasticity.modules.hyperspherical import on_sphere
from plasticity.network_spec import LayerSpec


def layer(inputs=3, width=4, is_first=True, **spec):
    torch.manual_seed(0)
    return HypersphericalLayer(inputs, width, LayerSpec(**spec), is_first, shift=3.0).double()


def test_by_hand():
    found = layer(1, 2)
    found.weight.data.copy_(torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
    found.sphere_scale.factor.data.copy_(torch.tensor([1.0, 2.0]))
    # inputs (4, 3) / 5; sums 0.6 * 0.8 + 0.8 * 0.6 = 0.96 and 0.8; scaled 0.96 and 1.6; norm 1.8659
    norm = math.hypot(0.96, 1.6)
    expected = [0.96 / norm, 1.6 / norm]
    assert found(torch.tensor([4.0], dtype=torch.float64)).tolist() == pytest.approx(expected)


def test_inputs_of_0_are_the_shift_alone():
    found = layer(activations=(torch.tanh,))
    expected = on_sphere(torch.tanh(math.sqrt(2 / 4) * found.weight[:, -1]))
    torch.testing.assert_close(found(torch.zeros(3).double()), expected)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("activations", [(torch.relu,), (torch.sin, torch.cos)])
def test_weights_and_features_have_norm_1(is_first, activations):
    found = layer(3, 6, is_first, activations=activations)
    inputs = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(found(inputs).norm(dim=-1), torch.ones(20).double())
    assert found.weight.shape == (6 // len(activations), 3 + is_first)
    torch.testing.assert_close(found.weight.norm(dim=-1), torch.ones(len(found.weight)).double())
    assert found.bias is None


def test_features_that_are_all_0_get_a_direction():
    found = layer()
    found.sphere_scale.factor.data.fill_(0.0)
    torch.testing.assert_close(found(torch.ones(3).double()), torch.full((4,), 0.5).double())
    found(torch.ones(3).double()).sum().backward()
    assert found.weight.grad.isfinite().all()


def test_a_normalization_is_refused():
    with pytest.raises(ValueError, match="leave the normalization out"):
        layer(normalization=nn.LayerNorm)
