"""Leaky ReLU: the slope reaches every layer, and whole runs."""

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP, ResNet
from plasticity.mitigations import LeakyReLU, Syre, WeightDecay, network_spec


def build(config, **settings):
    torch.manual_seed(0)
    return config.build(network_spec([LeakyReLU(**settings)], config.spec((1, 9, 9), 3)))


def test_the_sums_of_every_layer_below_0_have_the_slope():
    network, images = build(CNN(channels=(4,), hidden=(5,)), slope=0.3), torch.randn(6, 1, 9, 9)
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    maps = torch.where(sums > 0, sums, 0.3 * sums)
    torch.testing.assert_close(network.conv1(images), maps)
    sums = functional.linear(maps.flatten(1), network.fc1.weight, network.fc1.bias)
    torch.testing.assert_close(
        network.fc1(maps.flatten(1)), torch.where(sums > 0, sums, 0.3 * sums)
    )


def test_the_slope_0_is_a_relu_in_a_resnet_too():
    config, images = ResNet(width=2, blocks=(1, 1)), torch.randn(6, 1, 9, 9)
    torch.manual_seed(0)
    plain = config.build(config.spec((1, 9, 9), 3))
    assert torch.equal(build(config, slope=0.0)(images), plain(images))
    assert not torch.equal(build(config, slope=0.5)(images), plain(images))


def test_different_slopes_are_different_networks():
    assert repr(build(MLP(), slope=0.1)) != repr(build(MLP(), slope=0.2))


def test_whole_runs(stacked_as_alone, continues_exactly):
    method = LeakyReLU(slope=0.3)
    syre = (method, Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((method,), syre, (WeightDecay(strength=0.01), method))
    continues_exactly(syre)


@pytest.mark.parametrize("slope", [-0.1, 1.0, float("nan")])
def test_wrong_settings(slope):
    with pytest.raises(ValueError, match="slope must be a finite number of at least 0 and below 1"):
        LeakyReLU(slope=slope)
