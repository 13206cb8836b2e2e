"""Concatenated activations, with functions of our own."""

from typing import ClassVar

import pytest
import torch

from plasticity.agents.networks import MLP
from plasticity.mitigations.concatenated import Concatenated
from plasticity.network_spec import NetworkSpec


class Three(Concatenated):
    """Three functions, which can be told apart."""

    activations: ClassVar = (torch.square, torch.neg, torch.exp)


SPEC = NetworkSpec(input_shape=(2,), output_size=2)


def test_functions_lie_side_by_side_in_their_order():
    layer = MLP(hidden=(2,)).build(Three(keep_units=True).network(SPEC)).fc1
    layer.weight.data.copy_(torch.eye(2))
    layer.bias.data.zero_()
    expected = torch.tensor([0, 9, 0, -3, 1, 20.085537])  # x ** 2, -x, exp(x)
    torch.testing.assert_close(layer(torch.tensor([0.0, 3.0])), expected)


def test_the_width_counts_outputs_by_default():
    assert MLP(hidden=(6,)).build(Three().network(SPEC)).fc1.out_features == 2


def test_a_setting_must_be_true_or_false():
    with pytest.raises(TypeError, match="keep_units must be True or False, not 1"):
        Three(keep_units=1)
