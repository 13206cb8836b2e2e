"""ResNets: the published size of ResNet-18 for CIFAR, the formula written out, and whose units feed whom."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.agents.networks import NETWORKS, ResNet
from plasticity.initialization import Constant, Uniform
from plasticity.network_spec import LayerSpec, NetworkSpec
from plasticity.stacking import StackedNetworks
from plasticity.units.flow import trace_units


def build(shape=(3, 8, 8), outputs=10, **settings):
    config = ResNet(**settings)
    return config.build(config.spec(shape, outputs))


def test_resnet18_by_hand():
    network = build((3, 32, 32))
    # 11 173 962: the parameters of ResNet-18 for CIFAR-10, as published with its implementations. By hand,
    # with k = 9 in * out, each convolution followed by 2 * out of its normalization:
    stage = lambda i, o, shortcut: (  # noqa: E731
        9 * i * o + 3 * 9 * o * o + 4 * 2 * o + (i * o + 2 * o if shortcut else 0)
    )
    stages = (
        stage(64, 64, False) + stage(64, 128, True) + stage(128, 256, True) + stage(256, 512, True)
    )
    by_hand = 27 * 64 + 2 * 64 + stages + 512 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == by_hand == 11_173_962
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 17 + 3  # 17 and the output make 18; three shortcuts have weights
    assert all(m.bias is None for m in convolutions)
    assert len(network.hidden_layers) == 9
    assert NETWORKS["resnet"] is ResNet


def test_convolutions_with_biases():
    network = build((3, 32, 32), biases=True)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.bias is not None for m in convolutions)
    # 1 + 4 convolutions of 64 channels, then 4 and a shortcut of 128, of 256 and of 512
    biases = 5 * 64 + 5 * (128 + 256 + 512)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962 + biases


def test_maps_are_halved_after_the_first_stage():
    network = build((3, 32, 32), width=2)
    shapes = {}
    for name in network.hidden_layers:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == {
        "stem": (2, 32, 32),
        "stage1.0": (2, 32, 32),
        "stage1.1": (2, 32, 32),
        "stage2.0": (4, 16, 16),
        "stage2.1": (4, 16, 16),
        "stage3.0": (8, 8, 8),
        "stage3.1": (8, 8, 8),
        "stage4.0": (16, 4, 4),
        "stage4.1": (16, 4, 4),
    }
    assert network.features(torch.rand(2, 3, 32, 32)).shape == (2, 16)


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_formula(training):
    torch.manual_seed(0)
    network = build(width=4, blocks=(1, 1)).double().train(training)
    for name, tensor in network.state_dict().items():
        if "normalization" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def normalized(maps, name, stride=1):
        weight = state[f"{name}.weight"]
        sums = functional.conv2d(maps, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance = (state[f"{name}.normalization.running_{each}"] for each in ("mean", "var"))
        if training:
            mean, variance = sums.mean((0, 2, 3)), sums.var((0, 2, 3), correction=0)
        unit = (sums - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        scale, offset = (state[f"{name}.normalization.{each}"] for each in ("weight", "bias"))
        return unit * scale[:, None, None] + offset[:, None, None]

    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    maps = normalized(images, "stem").relu()
    inner = normalized(maps, "stage1.0.conv1").relu()
    maps = (normalized(inner, "stage1.0.conv2") + maps).relu()
    inner = normalized(maps, "stage2.0.conv1", stride=2).relu()
    shortcut = normalized(maps, "stage2.0.shortcut", stride=2)
    maps = (normalized(inner, "stage2.0.conv2") + shortcut).relu()
    features = maps.mean((2, 3))
    torch.testing.assert_close(network.features(images), features)
    logits = features @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(network(images), logits)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (1, 1, 1)])
def test_every_image_size(shape):
    assert build(shape, 4, width=2).eval()(torch.zeros(2, *shape)).shape == (2, 4)


def test_units_within_a_block_are_followed_and_sums_join_layers():
    network = build(width=4, blocks=(1, 1))
    flow = trace_units(network, torch.zeros(1, 3, 8, 8))
    inner = flow["stage2.0.conv1"]
    assert [reader.weight for reader in inner.readers] == ["stage2.0.conv2.weight"]
    assert not inner.joined
    assert set(flow["stem"].joined) == {"stage1.0.conv2"}  # a residual sum
    assert set(flow["stage2.0.shortcut"].joined) == {"stage2.0.conv2"}
    assert {reader.weight for reader in flow["stem"].readers} == {
        "stage1.0.conv1.weight",
        "stage2.0.conv1.weight",
        "stage2.0.shortcut.weight",
    }
    assert [reader.weight for reader in flow["stage2.0.conv2"].readers] == ["output.weight"]
    assert all(layer.not_followed is None for layer in flow.layers)


def test_initial_values_are_declared():
    network = build(width=4, blocks=(1, 1))
    declared = network.initialization()
    assert declared.keys() == dict(network.named_parameters()).keys()
    assert declared["stage2.0.conv1.weight"] == Uniform(1 / 6)  # fan-in 4 * 9
    assert declared["stem.normalization.weight"] == Constant(1.0)
    assert network.stage2[0].conv1.weight.abs().max().item() <= 1 / 6


def test_mitigations_edit_the_layers():
    config = ResNet(width=4, blocks=(1, 1))

    def edited(**changes):
        layer = LayerSpec(**changes)
        return config.build(NetworkSpec(input_shape=(3, 8, 8), output_size=10, layer=layer))

    halves = edited(activations=(torch.relu, torch.tanh))  # halves of the channels, as in CReLU
    images = torch.rand(3, 3, 8, 8)
    assert halves.stem(images).shape == (3, 4, 8, 8)
    assert halves.stem.weight.shape[0] == 2
    assert halves(images).shape == (3, 10)
    normalized = edited(normalization=nn.LayerNorm)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in normalized.modules())
    assert normalized.stage2[0].shortcut.normalization.normalized_shape == (8, 4, 4)


def test_stacked_networks_equal_each():
    networks = [build(width=2, blocks=(1, 1)) for _ in range(2)]
    stacked, images = StackedNetworks(networks), torch.rand(2, 5, 3, 8, 8)
    expected = torch.stack([each(own) for each, own in zip(networks, images, strict=True)])
    torch.testing.assert_close(stacked(images), expected)
    for name, buffer in networks[1].named_buffers():  # running statistics, after one batch
        torch.testing.assert_close(stacked.buffers[name][1], buffer)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"width": 0}, ValueError, "width must be at least 1: 0"),
        ({"width": 2.5}, TypeError, "width must be an integer"),
        ({"biases": 1}, TypeError, "biases must be True or False, not 1"),
        ({"blocks": ()}, ValueError, "blocks needs at least one width"),
        ({"blocks": 2}, TypeError, "blocks must be a tuple"),
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ResNet(**settings)


def test_inputs_that_are_no_images():
    with pytest.raises(ValueError, match=r"A resnet needs images .*\(7,\): give another"):
        build((7,))
