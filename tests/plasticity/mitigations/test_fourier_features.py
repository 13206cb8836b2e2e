"""Deep Fourier features: closed forms, conventions of the width, a unit's two outputs, and whole runs."""

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import FourierFeatures, ReDo, Syre, WeightDecay, network_spec
from plasticity.units import trace_units


def build(config, shape=(1, 9, 9), **settings):
    torch.manual_seed(0)
    return config.build(network_spec([FourierFeatures(**settings)], config.spec(shape, 3)))


@pytest.mark.parametrize("keep_units", [False, True])
def test_outputs_are_sines_and_cosines_of_the_sums(keep_units):
    network = build(CNN(channels=(4,), hidden=(6,)), keep_units=keep_units).double()
    images = torch.randn(5, 1, 9, 9, dtype=torch.float64)
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    outputs = network.conv1(images)
    assert torch.equal(outputs, torch.cat([sums.sin(), sums.cos()], 1))
    # 2 units or 4; sin**2 + cos**2 = 1 for each, at each position
    units = 4 if keep_units else 2
    torch.testing.assert_close(outputs.square().sum(1), torch.full((5, 5, 5), units).double())
    assert network.fc1.weight.shape == ((6, 200) if keep_units else (3, 100))
    assert network.fc2.weight.shape == (3, 12 if keep_units else 6)


def test_each_unit_feeds_two_blocks_of_columns():
    network = build(CNN(channels=(2, 4), hidden=(6,)))
    flow = trace_units(network, torch.rand(2, 1, 9, 9))
    columns = {each.name: each.readers[0].columns.tolist() for each in flow.layers[:-1]}
    assert columns["conv1"] == [[0, 1]]
    # two units with 9 positions of each of two outputs
    assert columns["conv2"] == [
        [9 * c + 18 * k + n for k in range(2) for n in range(9)] for c in range(2)
    ]
    assert columns["fc1"] == [[0, 3], [1, 4], [2, 5]]


def test_actor_and_critic_may_differ():
    policy = ActorCritic(3, 2, PPOConfig(hidden=(8,)), critic_method=[FourierFeatures()])
    assert (policy.actor.fc1.out_features, policy.critic.fc1.out_features) == (8, 4)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (FourierFeatures(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((FourierFeatures(),), syre, (WeightDecay(strength=0.01), FourierFeatures()))
    continues_exactly((*syre, ReDo(every=5, tau=0.3)))
    continues_exactly(syre, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    assert ppo_continues_exactly((FourierFeatures(),)) != ppo_continues_exactly(())


def test_wrong_settings():
    with pytest.raises(TypeError, match="keep_units must be True or False, not 1"):
        FourierFeatures(keep_units=1)
    with pytest.raises(ValueError, match="width 7 cannot be shared by 2 activations"):
        build(MLP(hidden=(7,)))
