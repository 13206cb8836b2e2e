"""Comparison of convolutions as products with torch's own convolutions."""

import copy

import pytest
import torch
from torch import nn

from plasticity import StackedNetworks
from plasticity.stacking.convolution import as_convolutions, use_convolutions, use_products

LAYERS = {
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    "no bias": {"kernel_size": 1, "bias": False},
    # torch computes these itself.
    "dilation": {"kernel_size": 2, "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same"},
    "groups": {"kernel_size": 3, "groups": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients(name):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, **LAYERS[name]).double()
    other = copy.deepcopy(layer)
    use_products(other)
    assert ("_conv_forward" in other.__dict__) == (name in ("plain", "stride", "no bias"))
    inputs = torch.randn(5, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(layer(inputs))
    results = []
    for each in (layer, other):
        outputs = each(inputs)
        tensors = [inputs, *each.parameters()]
        results.append([outputs, *torch.autograd.grad((outputs * weights).sum(), tensors)])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    before = dict(vars(other))
    with as_convolutions(other):
        assert "_conv_forward" not in vars(other)
    assert vars(other) == before
    use_convolutions(other)
    assert "_conv_forward" not in other.__dict__


@pytest.mark.parametrize("name", ["plain", "no bias"])
def test_autocast_agrees_with_torchs_own_convolution(name):
    layer = nn.Conv2d(2, 4, **LAYERS[name])
    other = copy.deepcopy(layer)
    use_products(other)
    inputs = torch.randn(5, 2, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(inputs), other(inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_a_custom_convolution_is_left_unchanged():
    class Doubled(nn.Conv2d):
        def _conv_forward(self, inputs, weight, bias):
            return 2 * super()._conv_forward(inputs, weight, bias)

    layer = Doubled(1, 1, 3)
    use_products(layer)
    assert "_conv_forward" not in layer.__dict__


def test_a_network_taken_from_the_stack_is_an_ordinary_one():
    networks_alone = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()) for _ in range(2)]
    stack = StackedNetworks(networks_alone, convolution="products")
    assert "_conv_forward" in stack.template[0].__dict__
    assert "_conv_forward" not in stack.network(1)[0].__dict__
    inputs = torch.randn(3, 1, 5, 5)
    assert torch.equal(stack.network(1)(inputs), networks_alone[1](inputs))
