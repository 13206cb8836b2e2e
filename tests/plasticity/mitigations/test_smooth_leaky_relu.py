"""Smooth-Leaky activation: the settings reach every layer, and whole runs."""

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN
from plasticity.mitigations import (
    SmoothLeakyReLU,
    Syre,
    WeightDecay,
    mitigation_names,
    network_spec,
)


def build(config, **settings):
    torch.manual_seed(0)
    return config.build(network_spec([SmoothLeakyReLU(**settings)], config.spec((1, 9, 9), 3)))


def test_every_layer_has_it():
    network = build(CNN(channels=(4,), hidden=(5,), activation="tanh"), slope=0.2, sharpness=2.0)
    images = torch.randn(6, 1, 9, 9)
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    maps = 0.2 * sums + 0.8 * sums * torch.sigmoid(2 * sums)
    torch.testing.assert_close(network.conv1(images), maps)
    sums = functional.linear(maps.flatten(1), network.fc1.weight, network.fc1.bias)
    expected = 0.2 * sums + 0.8 * sums * torch.sigmoid(2 * sums)
    torch.testing.assert_close(network.fc1(maps.flatten(1)), expected)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (SmoothLeakyReLU(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((SmoothLeakyReLU(),), syre, (WeightDecay(strength=0.01), SmoothLeakyReLU()))
    continues_exactly(syre)


def test_wrong_settings():
    with pytest.raises(ValueError, match="slope must be a finite number of at least 0 and below 1"):
        SmoothLeakyReLU(slope=1.5)
    with pytest.raises(ValueError, match="sharpness must be above 0"):
        SmoothLeakyReLU(sharpness=0.0)
    with pytest.raises(ValueError, match="both set the activation"):
        mitigation_names("leaky-relu+smooth-leaky-relu")
