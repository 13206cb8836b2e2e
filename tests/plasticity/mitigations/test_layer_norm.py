"""Layer normalization: what it leaves alone, closed forms, and whole runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import LayerNorm, Syre, WeightDecay, network_spec
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.units import trace_units


def build(config, shape=(1, 9, 9), **settings):
    torch.manual_seed(0)
    return config.build(network_spec([LayerNorm(**settings)], config.spec(shape, 3))).double()


@pytest.mark.parametrize("config", [CNN(channels=(4, 6), hidden=(8,)), MLP(hidden=(8, 6))])
def test_the_scale_of_the_weights_does_not_matter(config):
    """Features of weights and bias times c > 0 are the same, up to epsilon; logits are not normalized."""
    network, images = build(config, epsilon=1e-12), torch.rand(5, 1, 9, 9, dtype=torch.float64)
    before = network(images)
    for name in network.hidden_layers:
        layer = network.get_submodule(name)
        layer.weight.data *= 7
        layer.bias.data *= 7
    torch.testing.assert_close(network(images), before)
    output = list(network.children())[-1]
    assert type(output) is nn.Linear
    output.weight.data *= 7
    output.bias.data *= 7
    torch.testing.assert_close(network(images), 7 * before)


def test_a_convolution_is_normalized_over_the_whole_map():
    network = build(CNN(channels=(4,), hidden=(8,)))
    images = torch.rand(5, 1, 9, 9, dtype=torch.float64)
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1).flatten(1)
    centred = sums - sums.mean(1, keepdim=True)
    normal = centred / (sums.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(network.conv1(images).flatten(1), normal.relu())
    # 4 channels of 5 x 5 positions; 8 units: a factor and a shift each
    affine = [p.numel() for name, p in network.named_parameters() if "normalization" in name]
    assert affine == [100, 100, 8, 8]
    assert not [n for n, _ in build(MLP(), affine=False).named_parameters() if "normal" in n]


def test_no_decay_acts_on_the_affine_parameters():
    network = build(CNN(channels=(4,), hidden=(8,)))
    names = {id(p): name for name, p in network.named_parameters()}
    groups = parameter_groups(network, regularizer="syre", strength=0.1, sigma=0.3)
    found = {g["regularizer"]: {names[id(p)] for p in g["params"]} for g in groups}
    assert found["none"] == {
        f"{layer}.normalization.{kind}" for layer in ("conv1", "fc1") for kind in ("weight", "bias")
    }
    assert found["syre"] == {
        f"{n}.{kind}" for n in ("conv1", "fc1", "fc2") for kind in ("weight", "bias")
    }


def test_actor_and_critic_may_differ():
    policy = ActorCritic(3, 2, PPOConfig(hidden=(8,)), actor_method=[LayerNorm()])
    assert policy.actor.fc1.normalization.normalized_shape == (8,)
    assert policy.critic.fc1.normalization is None
    assert type(policy.actor.head) is nn.Linear


def test_units_and_readers_are_found():
    network = build(CNN(channels=(2, 3), hidden=(4,)))
    flow = trace_units(network, torch.rand(2, 1, 9, 9, dtype=torch.float64))
    columns = {each.name: each.readers[0].columns.tolist() for each in flow.layers[:-1]}
    assert columns["conv1"] == [[0], [1]]
    # 9 -> 5 -> 3: channel c of conv2 has the 9 columns from 9 c on
    assert columns["conv2"] == [[9 * c + n for n in range(9)] for c in range(3)]
    assert columns["fc1"] == [[0], [1], [2], [3]]
    assert all(each.not_followed is None for each in flow.layers)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (LayerNorm(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((LayerNorm(),), syre, (WeightDecay(strength=0.01), LayerNorm()))
    continues_exactly(syre)
    continues_exactly(syre, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    syre = (LayerNorm(), Syre(strength=0.01, sigma=0.3))
    assert len(ppo_continues_exactly(syre)) == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"affine": 1}, TypeError, "affine must be True or False, not 1"),
        ({"epsilon": -1}, ValueError, "epsilon must be a finite number of at least 0"),
        ({"epsilon": 0}, ValueError, "epsilon must be above 0"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        LayerNorm(**settings)
