import pytest
import torch
from networks_in_training import adam, images, marker, stacked
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_same,
    assert_stacked_as_alone,
    batches_of,
    learn,
    weights_after,
)

from plasticity.mitigations import Isometry
from plasticity.mitigations.attach import attach
from plasticity.mitigations.hooks import Hooks


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_step_by_hand_beside_any_optimizer(base):
    # W = 2: r = 4 · 2 · (4 - 1) = 24. Learning rate times strength is 1e-5, so that W becomes 1.99976.
    network = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1))
    with torch.no_grad():
        for each in network.parameters():
            each.fill_(2.0)
    optimizer = base(network.parameters(), lr=1e-3, weight_decay=0.0)
    attach(network, optimizer, Isometry(strength=1e-2), inputs=torch.zeros(1, 1))
    for each in network.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    assert network[0].weight.item() == pytest.approx(1.99976, abs=1e-6)
    for each in (network[0].bias, network[2].weight, network[2].bias):
        assert each.item() == 2
    for state in optimizer.state.values():
        assert not any(
            each.any() for name, each in state.items() if name != "step" and each is not None
        )


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_all_singular_values_approach_1(shape):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(*shape))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    isometry = Isometry(strength=1.0, with_output=True)
    attach(network, optimizer, isometry, inputs=torch.zeros(1, shape[0]))
    for _ in range(60):
        network[0].weight.grad = torch.zeros_like(network[0].weight)
        optimizer.step()
    values = torch.linalg.svdvals(network[0].weight.detach())
    torch.testing.assert_close(values, torch.ones(min(shape)))
    before = network[0].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(network[0].weight.detach(), before)


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((Isometry(strength=0.0),)), weights_after(()))


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = (Isometry(strength=0.1),), (Isometry(strength=1.0),)
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods)


def test_each_stacked_network_has_its_own_learning_rate_and_a_frozen_one_stays():
    models = [marker(seed).double() for seed in range(2)]
    networks, run, optimizer = stacked(models, images().double(), adam)
    optimizer.set_learning_rate([0.1, 0.2])
    hooks = Hooks([(Isometry(with_output=True),)] * 2, networks, [0, 1])
    optimizer.freeze(1)
    hooks.freeze(1)
    batches = [each.expand(2, *each.shape) for each in batches_of(3)]
    learn(run, optimizer, hooks, batches)
    for name, each in models[1].named_parameters():
        assert torch.equal(networks.parameters[name][1], each), name
    assert not torch.equal(networks.parameters["fc.weight"][0], models[0].fc.weight)


def test_attached_as_learned():
    assert_attached_as_learned((Isometry(),))


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="strength"):
        Isometry(strength=-1.0)
