"""VGG-like networks: sizes by hand, the same as a plain sequential, and units that resets can follow."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import NETWORKS, VGG
from plasticity.mitigations import CReLU, LayerNorm
from plasticity.stacking import StackedNetworks
from plasticity.units.flow import trace_units

SMALL = {"channels": (4, 6), "hidden": (8,)}


def build(shape=(3, 12, 12), outputs=7, **settings):
    config = VGG(**{**SMALL, **settings})
    return config.build(config.spec(shape, outputs))


def test_the_default_by_hand():
    network = VGG().make((3, 32, 32), 10)
    convolution = lambda i, o: 9 * i * o + o  # noqa: E731
    blocks = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    dense = 128 * 4 * 4 * 128 + 128 + 128 * 10 + 10  # 32 -> 16 -> 8 -> 4
    by_hand = sum(convolution(i, o) for i, o in blocks) + dense
    assert sum(p.numel() for p in network.parameters()) == by_hand
    assert network.hidden_layers == (*(f"conv{n}" for n in range(1, 7)), "fc1")
    assert NETWORKS["vgg"] is VGG


@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_a_plain_sequential(batch_norm):
    torch.manual_seed(0)
    network = build((3, 13, 12), batch_norm=batch_norm)

    def convolution(inputs, outputs):
        after = [nn.BatchNorm2d(outputs)] if batch_norm else []
        return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=not batch_norm), *after, nn.ReLU()]

    twin = nn.Sequential(
        *(*convolution(3, 4), *convolution(4, 4), nn.MaxPool2d(2)),
        *(*convolution(4, 6), *convolution(6, 6), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(6 * 3 * 3, 8), nn.ReLU(), nn.Linear(8, 7)),
    )
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data.copy_(q.data)
    images = torch.rand(6, 3, 13, 12)
    torch.testing.assert_close(network(images), twin(images))
    for running, other in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(running, other)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_units_are_followed_through_poolings(batch_norm):
    network = build(batch_norm=batch_norm)
    flow = trace_units(network, torch.zeros(1, 3, 12, 12))
    readers = {name: [each.weight for each in flow[name].readers] for name in network.hidden_layers}
    assert readers == {
        "conv1": ["conv2.weight"],
        "conv2": ["conv3.weight"],
        "conv3": ["conv4.weight"],
        "conv4": ["fc1.weight"],
        "fc1": ["fc2.weight"],
    }
    assert all(layer.not_followed is None for layer in flow.layers)


def test_mitigations_edit_the_layers():
    plain = VGG(**SMALL, batch_norm=True)
    halves = plain.make((3, 12, 12), 7, (CReLU(),))
    assert halves.conv1.weight.shape[0] == 2
    assert halves.conv1(torch.rand(1, 3, 12, 12)).shape == (1, 4, 12, 12)
    normalized = plain.make((3, 12, 12), 7, (LayerNorm(),))
    assert not any(isinstance(each, nn.BatchNorm2d) for each in normalized.modules())
    assert normalized.conv3.normalization.normalized_shape == (6, 6, 6)
    assert normalized.fc1.normalization.normalized_shape == (8,)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_stacked_networks_equal_each(batch_norm):
    networks = [build(batch_norm=batch_norm) for _ in range(2)]
    stacked, images = StackedNetworks(networks), torch.rand(2, 5, 3, 12, 12)
    expected = torch.stack([each(own) for each, own in zip(networks, images, strict=True)])
    torch.testing.assert_close(stacked(images), expected)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"channels": ()}, ValueError, "channels needs at least one width"),
        ({"hidden": 3}, TypeError, "hidden must be a tuple of widths, not 3"),
        ({"convolutions": 0}, ValueError, "convolutions must be at least 1: 0"),
        ({"batch_norm": 1}, TypeError, "batch_norm must be True or False, not 1"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        VGG(**settings)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="Images of 8 x 7 are too small for 3 blocks"):
        build((3, 8, 7), channels=(2, 2, 2))
    with pytest.raises(ValueError, match=r"A vgg needs images .*\(7,\): give another"):
        build((7,))
