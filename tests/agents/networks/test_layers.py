"""Distributions of initial weights against the weights that torch and PPO draw."""

import math

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.networks.layers import default_initialization
from plasticity.agents.ppo.config import PPOConfig
from plasticity.initialization import Constant, Normal, Orthogonal, Uniform
from plasticity.network_spec import LayerSpec, NetworkSpec


def test_a_classifier_has_the_initialization_of_torch():
    layer = LayerSpec(normalization=nn.LayerNorm)
    spec = NetworkSpec(input_shape=(1, 28, 28), output_size=10, layer=layer)
    network = CNN().build(spec)
    found = network.initialization()
    assert list(found) == [name for name, _ in network.named_parameters()]
    # conv2 has 8 * 9 inputs, fc1 16 * 7 * 7, fc2 64
    fan_in = {"conv1": 9, "conv2": 72, "fc1": 784, "fc2": 64}
    for name, inputs in fan_in.items():
        assert found[f"{name}.weight"] == found[f"{name}.bias"] == Uniform(1 / math.sqrt(inputs))
        bound = 1 / math.sqrt(inputs)
        weight = network.get_parameter(f"{name}.weight")
        assert 0.9 * bound < weight.abs().max() <= bound
    assert found["conv1.normalization.weight"] == Constant(1.0)
    assert found["fc1.normalization.bias"] == Constant(0.0)


@pytest.mark.parametrize("scheme", ["lecun", "orthogonal", "kaiming", "xavier"])
def test_a_policy_has_the_initialization_that_it_was_drawn_from(scheme):
    config = PPOConfig(hidden=(8, 6), initialization=scheme, initial_log_std=-0.5)
    policy = ActorCritic(3, 2, config, generator=torch.Generator().manual_seed(5))
    found = policy.initialization()
    assert sorted(found) == sorted(name for name, _ in policy.named_parameters())
    assert found["log_std"] == Constant(-0.5)
    assert found["critic.fc2.bias"] == Constant(0.0)
    if scheme == "lecun":
        assert found["actor.fc2.weight"] == Uniform(math.sqrt(3 / 8))
    elif scheme == "xavier":
        assert found["actor.fc2.weight"] == Uniform(math.sqrt(6 / 14))
        assert found["actor.head.weight"] == Uniform(0.01 * math.sqrt(6 / 8))
    elif scheme == "kaiming":
        assert found["actor.fc2.weight"] == Normal(math.sqrt(2) / math.sqrt(8))
        assert found["critic.head.weight"] == Normal(1 / math.sqrt(6))
    else:
        gains = [
            found[f"{name}.weight"].gain for name in ("actor.fc1", "actor.head", "critic.head")
        ]
        assert gains == [math.sqrt(2), 0.01, 1.0]
        assert isinstance(found["actor.fc1.weight"], Orthogonal)
    # Drawn again with the same generator, the networks are the same: actor, then critic.
    generator = torch.Generator().manual_seed(5)
    for name, parameter in policy.named_parameters():
        again = torch.empty_like(parameter)
        found[name].draw_(again.detach(), generator)
        assert torch.equal(again, parameter), name


def test_parameters_of_unknown_kinds_are_refused():
    module = nn.Module()
    module.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(
        ValueError, match="initial values of 'scale', a parameter of Module, are not"
    ):
        default_initialization(module)
