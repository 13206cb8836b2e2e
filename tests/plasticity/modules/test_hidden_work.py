"""Work on sums: the order of its parts, and modules that do it for another layer."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks.layers import DenseLayer
from plasticity.modules.hidden_work import HiddenActivation
from plasticity.network_spec import LayerSpec


class Plus(nn.Module):
    """Addition of a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, inputs):
        return inputs + self.number


SPEC = LayerSpec(
    activations=(torch.relu, torch.neg),
    normalization=lambda shape: Plus(1.0),
    gate=lambda shape: Plus(float(shape[0])),
    noise=lambda: Plus(100.0),
)


def test_parts_act_in_their_order():
    found = HiddenActivation(SPEC, (2,), -1)(torch.tensor([1.0, -3.0]))
    # normalized: (2, -2); factors, the shape's 2 more: (4, 0); relu (2, 0) and neg (-2, 2) times these, + 100
    assert found.tolist() == [108, 100, 92, 100]


@pytest.mark.parametrize("axis", [-1, -3])
def test_outputs_lie_along_the_axis(axis):
    sums = torch.randn(4, 2, 5, 5).movedim(1, axis)
    found = HiddenActivation(SPEC, (2, 5, 5), axis)(sums)
    assert found.shape[axis] == 4
    assert found.numel() == 2 * sums.numel()


def test_it_does_what_a_layer_does():
    layer = DenseLayer(3, 4, SPEC)
    inputs = torch.randn(5, 3)
    sums = nn.functional.linear(inputs, layer.weight, layer.bias)
    assert torch.equal(layer(inputs), HiddenActivation(SPEC, (2,), -1)(sums))


def test_settings_are_printed_without_addresses():
    layer = LayerSpec(activations=(torch.relu, nn.LeakyReLU(0.3)))
    text = repr(HiddenActivation(layer, (2,), -1))
    assert text == "HiddenActivation(axis=-1, activations=(relu, LeakyReLU(negative_slope=0.3)))"
