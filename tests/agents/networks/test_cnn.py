"""Shapes and parameter counts computed by hand, and features under the layer's own name."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN
from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.network_spec import LayerSpec, NetworkSpec


def build(shape, outputs, **settings):
    config = CNN(**settings)
    return config.build(config.spec(shape, outputs))


def parameters_of(network):
    return sum(p.numel() for p in network.parameters())


def test_cnn_by_hand():
    network = build((1, 28, 28), 10)
    # conv1: 8 * 9 + 8 = 80; conv2: 16 * 8 * 9 + 16 = 1168; 28 -> 14 -> 7, so
    # fc1: 16 * 49 * 64 + 64 = 50240; fc2: 64 * 10 + 10 = 650
    assert parameters_of(network) == 80 + 1168 + 50240 + 650
    assert network.hidden_layers == ("conv1", "conv2", "fc1")
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 9, 7)])
def test_every_image_size(downsampling, shape):
    network = build(shape, 4, downsampling=downsampling)
    assert network(torch.zeros(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
def test_equals_a_plain_sequential(downsampling):
    torch.manual_seed(0)
    network = build((1, 8, 8), 5, downsampling=downsampling)
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


def test_the_published_networks_of_continual_imagenet_by_hand():
    """Kernels of several sizes without padding: Dohare et al. (2024), and Kumar et al. (2023)."""
    settings = {"downsampling": "max-pool", "padding": "none"}
    network = build(
        (3, 32, 32),
        2,
        channels=(32, 64, 128),
        kernel_sizes=(5, 3, 3),
        hidden=(128, 128),
        **settings,
    )
    # 32 -> 28 -> 14 -> 12 -> 6 -> 4 -> 2: 128 * 2 * 2 = 512 features
    assert network.fc1.in_features == 512
    convolutions = 32 * 75 + 32 + 64 * 32 * 9 + 64 + 128 * 64 * 9 + 128
    assert parameters_of(network) == convolutions + 512 * 128 + 128 + 128 * 128 + 128 + 128 * 2 + 2
    small = build((3, 32, 32), 10, channels=(16, 16), kernel_sizes=(5,), hidden=(100,), **settings)
    assert small.fc1.in_features == 400  # 32 -> 28 -> 14 -> 10 -> 5, of 16 channels
    strides = build((1, 9, 9), 2, kernel_sizes=(4, 2), padding="none")
    assert strides.fc1.in_features == 16  # 9 -> 3, as 5 // 2 + 1, -> 1


def test_kernels_without_padding_equal_a_plain_sequential():
    torch.manual_seed(0)
    settings = {"downsampling": "max-pool", "padding": "none", "kernel_sizes": (4, 3)}
    network = build((3, 16, 17), 5, hidden=(8,), **settings)
    twin = nn.Sequential(
        *(nn.Conv2d(3, 8, 4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 2 * 2, 8), nn.ReLU(), nn.Linear(8, 5)),
    )
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data.copy_(q.data)
    images = torch.rand(6, 3, 16, 17)
    torch.testing.assert_close(network(images), twin(images))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_layer_outputs_its_features_after_the_activation(name):
    network = build((1, 8, 8), 5, activation=name)
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
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
        ({"downsampling": "strides"}, ValueError, "Did you mean 'stride'"),
        ({"channels": (8, 0)}, ValueError, "width of channels must be at least 1: 0"),
        ({"hidden": 64}, TypeError, "hidden must be a tuple of widths, not 64"),
        ({"hidden": (2.5,)}, TypeError, "width of hidden must be an integer"),
        ({"hidden": ()}, ValueError, "hidden needs at least one width"),
        ({"channels": ()}, ValueError, "channels needs at least one width"),
        (
            {"kernel_sizes": (3, 4)},
            ValueError,
            "kernel_sizes must be odd with the padding 'same', not 4",
        ),
        (
            {"kernel_sizes": (3, 3, 3)},
            ValueError,
            "3 entries for 2 convolutions: give one for each",
        ),
        ({"kernel_sizes": 3}, TypeError, "kernel_sizes must be a tuple of widths, not 3"),
        ({"padding": "valid"}, ValueError, "Unknown padding 'valid'"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        CNN(**settings)


def test_images_too_small_for_the_poolings():
    with pytest.raises(ValueError, match="8 x 8 are too small for 4 poolings"):
        build((1, 8, 8), 10, channels=(4, 4, 4, 4), downsampling="max-pool")


def test_images_too_small_for_the_kernels():
    with pytest.raises(ValueError, match="kernel of 5 x 5 have only 2 x 2 pixels: give fewer conv"):
        build((1, 8, 8), 10, kernel_sizes=(5,), padding="none", downsampling="max-pool")


def test_inputs_that_are_no_images():
    with pytest.raises(ValueError, match=r"not inputs of shape \(64,\): give another architecture"):
        build((64,), 10)


@pytest.mark.parametrize(
    ("keep_units", "units", "outputs"),
    [(False, (4, 8, 32), (8, 16, 64)), (True, (8, 16, 64), (16, 32, 128))],
)
@pytest.mark.parametrize("downsampling", ["stride", "max-pool"])
def test_two_activations(downsampling, keep_units, units, outputs):
    """Each layer's outputs are those of one function, then those of the other, for all units."""
    layer = LayerSpec(activations=(torch.sin, torch.cos), keep_units=keep_units)
    spec = NetworkSpec(input_shape=(1, 9, 9), output_size=5, layer=layer)
    network = CNN(downsampling=downsampling).build(spec)
    stride, size = (2, 3) if downsampling == "stride" else (1, 2)  # 9 -> 5 -> 3 or 9 -> 4 -> 2
    layers = (network.conv1, network.conv2, network.fc1)
    assert tuple(len(layer.weight) for layer in layers) == units
    assert network.fc1.in_features == outputs[1] * size**2
    assert network.fc2.in_features == outputs[2]
    images = torch.rand(2, 1, 9, 9)
    sums = nn.functional.conv2d(images, network.conv1.weight, network.conv1.bias, stride, 1)
    expected = torch.cat([sums.sin(), sums.cos()], 1)
    torch.testing.assert_close(network.conv1(images), expected)
    sums = nn.functional.linear(
        torch.ones(network.fc1.in_features), network.fc1.weight, network.fc1.bias
    )
    torch.testing.assert_close(
        network.fc1(torch.ones(network.fc1.in_features)), torch.cat([sums.sin(), sums.cos()])
    )
    assert network(images).shape == (2, 5)


def test_normalization_comes_before_the_activation():
    layer = LayerSpec(normalization=nn.LayerNorm)
    spec = NetworkSpec(input_shape=(1, 9, 9), output_size=5, layer=layer)
    network = CNN(channels=(3,), hidden=(4,)).build(spec)
    assert network.conv1.normalization.normalized_shape == (3, 5, 5)
    assert network.fc1.normalization.normalized_shape == (4,)
    images = torch.rand(2, 1, 9, 9)
    sums = nn.functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    centred = sums - sums.mean((1, 2, 3), keepdim=True)
    normal = centred / (sums.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(network.conv1(images), normal.relu())
