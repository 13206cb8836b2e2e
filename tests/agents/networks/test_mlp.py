"""Shapes and parameter counts computed by hand."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import MLP
from plasticity.network_spec import LayerSpec, NetworkSpec


def test_mlp_by_hand():
    config = MLP(hidden=(32, 16), activation="tanh")
    network = config.build(config.spec((1, 8, 8), 10))
    # 64 * 32 + 32, 32 * 16 + 16, 16 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == 2080 + 528 + 170
    assert network.hidden_layers == ("fc1", "fc2")
    twin = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 32), nn.Tanh()),
        *(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10)),
    )
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data.copy_(q.data)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(images), twin(images))


def test_two_activations_share_the_width():
    layer = LayerSpec(activations=(torch.sin, torch.cos))
    network = MLP(hidden=(6,)).build(NetworkSpec(input_shape=(4,), output_size=2, layer=layer))
    # 3 units: 4 * 3 + 3, then 6 * 2 + 2
    assert sum(p.numel() for p in network.parameters()) == 15 + 14
    sums = nn.functional.linear(torch.ones(1, 4), network.fc1.weight, network.fc1.bias)
    torch.testing.assert_close(
        network.fc1(torch.ones(1, 4)), torch.cat([sums.sin(), sums.cos()], 1)
    )
    with pytest.raises(ValueError, match="width 7 cannot be shared by 2 activations"):
        MLP(hidden=(7,)).build(NetworkSpec(input_shape=(4,), output_size=2, layer=layer))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hidden": ()}, ValueError, r"needs at least one width: hidden=\(64,\)"),
        ({"hidden": [64]}, TypeError, "must be a tuple of widths"),
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        MLP(**settings)
