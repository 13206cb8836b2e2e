"""Fan-in by hand, and which parameters are left alone."""

import logging

import pytest
import torch
from torch import nn

from plasticity.groups import describe_groups, flat_fan_in, parameter_groups, weight_fan_in


def test_fan_in_by_hand():
    assert weight_fan_in(torch.empty(7, 5)) == 5
    assert weight_fan_in(torch.empty(8, 3, 5, 5)) == 75  # 3 channels x 5 x 5
    assert weight_fan_in(torch.empty(4)) is None
    assert weight_fan_in(torch.empty(())) is None


def test_flat_list_passes_the_fan_in_of_the_weight_before():
    shapes = [(2,), (7, 5), (7,), (8, 3, 5, 5), (8,), (8,), ()]
    assert flat_fan_in(map(torch.empty, shapes)) == [0, 5, 5, 75, 75, 75, 75]


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(3))
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(16, 3)
        self.norm = nn.LayerNorm(3)


def test_modules_are_known(caplog):
    policy = Policy()
    with caplog.at_level(logging.INFO, logger="plasticity"):
        groups = parameter_groups(policy, regularizer="syre", strength=1e-3, sigma=0.3)
    decayed, alone = groups
    convolution, head = policy.trunk[0], policy.head
    expected = [convolution.weight, convolution.bias, head.weight, head.bias]
    assert all(a is b for a, b in zip(decayed["params"], expected, strict=True))
    assert decayed["fan_in"] == [18, 18, 16, 16]  # 2 channels x 3 x 3; 16 inputs
    kept = [policy.log_std, *policy.trunk[1].parameters(), *policy.norm.parameters()]
    assert {id(p) for p in alone["params"]} == {id(p) for p in kept}
    assert alone["regularizer"] == "none"
    # 72 + 4 + 48 + 3 = 127 and 3 + 8 + 6 = 17
    assert "syre, 4 tensors with 127 parameters" in caplog.text
    assert "none, 5 tensors with 17 parameters" in caplog.text


def test_normalization_on_request():
    groups = parameter_groups(
        Policy(), regularizer="syre", strength=1e-3, include_normalization=True
    )
    assert [len(group["params"]) for group in groups] == [8, 1]
    assert sorted(groups[0]["fan_in"]) == [1, 1, 1, 1, 16, 16, 18, 18]


def test_shared_parameters_are_taken_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    (group,) = parameter_groups(
        nn.Sequential(first, second), regularizer="weight-decay", strength=0.1
    )
    assert len(group["params"]) == 3
    assert group["fan_in"] == [4, 4, 4]  # the second bias, whose weight was counted before, too


def test_model_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        parameter_groups(nn.ReLU(), regularizer="syre", strength=0.1)


def test_unknown_regularizer_names_the_nearest():
    with pytest.raises(ValueError, match=r"'sire'.*Did you mean 'syre'"):
        parameter_groups(nn.Linear(2, 2), regularizer="sire", strength=0.1)


def test_description_of_a_single_element():
    text = describe_groups([{"params": [torch.zeros(1)], "regularizer": "none"}])
    assert text == "group 0: none, 1 tensor with 1 parameter"


@pytest.mark.parametrize("make", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers_keep_their_bias(make):
    layer = getattr(nn.utils.parametrizations, make)(nn.Linear(20, 8))
    groups = parameter_groups(layer, regularizer="syre", strength=0.1)
    fan_in = {
        id(p): inputs for p, inputs in zip(groups[0]["params"], groups[0]["fan_in"], strict=True)
    }
    assert fan_in[id(layer.bias)] == 20
