"""Cloned units: the same features, the same gradients, and what ends it."""

import pytest
import torch
from torch.nn import functional

from plasticity import parameter_groups, regularized
from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.cloned_units import clone_units
from plasticity.metrics import effective_rank


def built(config, shape, share=0.5):
    torch.manual_seed(0)
    network = config.make(shape, 3).double()
    clone_units(network, 0.0, shape) if not share else _cloned(network, share, shape)
    return network


def _cloned(network, share, shape):
    network.float()
    clone_units(network, share, shape)
    network.double()


def test_copies_of_dense_units_by_hand():
    torch.manual_seed(0)
    network = MLP(hidden=(5, 4)).make((6,), 3)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    clone_units(network, 0.4, (6,))
    first, second, output = network.fc1, network.fc2, network.fc3
    # units 3 and 4 of five copy 0 and 1; unit 2 is by itself; of four, round(1.6) = 2 copy 0 and 1
    for copy, original in ((3, 0), (4, 1)):
        assert torch.equal(first.weight[copy], before["fc1.weight"][original])
        assert first.bias[copy] == before["fc1.bias"][original]
        mean = (before["fc2.weight"][:2, copy] + before["fc2.weight"][:2, original]) / 2
        torch.testing.assert_close(second.weight[:2, copy], mean)
        torch.testing.assert_close(second.weight[:2, original], mean)
    assert torch.equal(first.weight[2], before["fc1.weight"][2])
    assert torch.equal(second.weight[:2, 2], before["fc2.weight"][:2, 2])
    for copy, original in ((2, 0), (3, 1)):
        assert torch.equal(second.weight[copy], second.weight[original])
        mean = (before["fc3.weight"][:, copy] + before["fc3.weight"][:, original]) / 2
        torch.testing.assert_close(output.weight[:, copy], mean)
    assert torch.equal(output.bias, before["fc3.bias"])


def test_at_least_one_unit_stays_itself():
    network = MLP(hidden=(3,), cloned_share=0.99).make((6,), 2)
    assert torch.equal(network.fc1.weight, network.fc1.weight[:1].expand(3, -1))


@pytest.mark.parametrize(
    ("config", "shape"),
    [(MLP(hidden=(8, 6)), (1, 5, 5)), (CNN(channels=(4, 6), hidden=(8,)), (1, 8, 8))],
)
def test_clones_stay_equal_under_gradient_descent_and_not_under_syre(config, shape):
    inputs, labels = torch.randn(32, *shape).double(), torch.arange(32) % 3
    ranks = {}
    for regularizer in ("none", "weight-decay", "syre"):
        network = built(config, shape)
        settings = {"sigma": 0.5} if regularizer == "syre" else {}
        groups = parameter_groups(network, regularizer=regularizer, strength=0.1, **settings)
        optimizer = regularized(torch.optim.SGD)(groups, lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        weight = network.get_submodule(network.hidden_layers[0]).weight.flatten(1)
        half = len(weight) // 2
        apart = (weight[:half] - weight[half:]).abs().max().item()
        ranks[regularizer] = effective_rank(weight.detach()).item()
        if regularizer == "syre":
            assert apart > 1e-3
        else:
            assert apart < 1e-12
    assert ranks["syre"] > max(ranks["none"], ranks["weight-decay"])


def test_a_network_with_clones_is_one_of_half_the_width():
    torch.manual_seed(0)
    network = MLP(hidden=(8,)).make((6,), 3)
    clone_units(network, 0.5, (6,))
    narrow = MLP(hidden=(4,)).make((6,), 3)
    with torch.no_grad():
        narrow.fc1.weight.copy_(network.fc1.weight[:4])
        narrow.fc1.bias.copy_(network.fc1.bias[:4])
        narrow.fc2.weight.copy_(network.fc2.weight[:, :4] + network.fc2.weight[:, 4:])
        narrow.fc2.bias.copy_(network.fc2.bias)
    inputs = torch.randn(9, 6)
    torch.testing.assert_close(network(inputs), narrow(inputs))


def test_wrong_settings():
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="cloned_share must be"):
            MLP(cloned_share=share)
