"""Shapes and parameter counts computed by hand, and features under the layer's own name."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks.image import ACTIVATIONS, ImageNetwork, NetworkConfig


def parameters_of(network):
    return sum(p.numel() for p in network.parameters())


def test_cnn_by_hand():
    network = ImageNetwork((1, 28, 28), 10, NetworkConfig())
    # conv1: 8 * 9 + 8 = 80; conv2: 16 * 8 * 9 + 16 = 1168; 28 -> 14 -> 7, so
    # fc1: 16 * 49 * 64 + 64 = 50240; fc2: 64 * 10 + 10 = 650
    assert parameters_of(network) == 80 + 1168 + 50240 + 650
    assert network.hidden_layers == ("conv1", "conv2", "fc1")
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_mlp_by_hand():
    config = NetworkConfig(architecture="mlp", hidden=(32, 16))
    network = ImageNetwork((1, 8, 8), 10, config)
    # 64 * 32 + 32, 32 * 16 + 16, 16 * 10 + 10
    assert parameters_of(network) == 2080 + 528 + 170
    assert network.hidden_layers == ("fc1", "fc2")
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 9, 7)])
def test_every_image_size(downsampling, shape):
    network = ImageNetwork(shape, 4, NetworkConfig(downsampling=downsampling))
    assert network(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
def test_equals_a_plain_sequential(downsampling):
    torch.manual_seed(0)
    network = ImageNetwork((1, 8, 8), 5, NetworkConfig(downsampling=downsampling))
    strides = downsampling == "stride"
    pool = nn.Identity() if strides else nn.MaxPool2d(2)
    step = 2 if strides else 1
    twin = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, step, 1), nn.ReLU(), pool),
        *(nn.Conv2d(8, 16, 3, step, 1), nn.ReLU(), pool),
        *(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)),
    )
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data.copy_(q.data)
    images = torch.rand(6, 1, 8, 8)
    torch.testing.assert_close(network(images), twin(images))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_layer_outputs_its_features_after_the_activation(name):
    network = ImageNetwork((1, 8, 8), 5, NetworkConfig(activation=name))
    seen = []
    network.fc1.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output))
    )
    network(torch.rand(2, 1, 8, 8))
    inputs, output = seen[0]
    before = nn.functional.linear(inputs, network.fc1.weight, network.fc1.bias)
    torch.testing.assert_close(output, ACTIVATIONS[name](before))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"architecture": "cnm"}, ValueError, "Did you mean 'cnn'"),
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
        ({"downsampling": "strides"}, ValueError, "Did you mean 'stride'"),
        ({"channels": (8, 0)}, ValueError, "width must be at least 1: 0"),
        ({"hidden": 64}, TypeError, "hidden must be a tuple of widths, not 64"),
        ({"hidden": (2.5,)}, TypeError, "width must be an integer"),
        ({"hidden": ()}, ValueError, "at least one hidden"),
        ({"channels": ()}, ValueError, "at least one number of channels"),
        ({"kernel_size": 4}, ValueError, "kernel_size must be odd, not 4"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        NetworkConfig(**settings)


def test_images_too_small_for_the_poolings():
    config = NetworkConfig(channels=(4, 4, 4, 4), downsampling="max-pool")
    with pytest.raises(ValueError, match="8 x 8 are too small for 4 poolings"):
        ImageNetwork((1, 8, 8), 10, config)


def test_too_few_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 2: 0"):
        ImageNetwork((1, 8, 8), 0, NetworkConfig())
