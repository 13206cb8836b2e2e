"""CReLU: the field book's example, both conventions of the width, and whole runs."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.mitigations import CReLU, LayerNorm, Syre, WeightDecay, network_spec
from plasticity.network_spec import LayerSpec, NetworkSpec
from plasticity.units import trace_units


def build(config, shape=(1, 9, 9), **settings):
    torch.manual_seed(0)
    return config.build(network_spec([CReLU(**settings)], config.spec(shape, 3)))


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_by_hand():
    network = build(MLP(hidden=(2,)), shape=(2,), keep_units=True)
    network.fc1.weight.data.copy_(torch.eye(2))
    network.fc1.bias.data.zero_()
    # (1, -2): relu(z) is (1, 0), relu(-z) is (0, 2)
    assert network.fc1(torch.tensor([1.0, -2.0])).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_norm_of_the_outputs_is_that_of_the_sums(activation):
    """Of convolutions too, whichever activation the network had."""
    network, images = build(CNN(activation=activation)).double(), torch.randn(5, 1, 9, 9).double()
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    outputs = network.conv1(images)
    torch.testing.assert_close(outputs.norm(dim=1), sums.norm(dim=1))
    assert torch.equal(outputs[:, :4], sums.relu())
    assert torch.equal(outputs[:, 4:], (-sums).relu())


def test_the_width_counts_outputs_unless_the_units_are_kept():
    config = CNN(channels=(8, 16), hidden=(64,))  # of images of 9 x 9: 9 -> 5 -> 3
    # conv1: 4 units of 9 weights and a bias; conv2: 8 of 8 * 9; fc1: 32 of 16 * 9; fc2: 3 of 64
    assert count(build(config)) == 4 * 10 + 8 * 73 + 32 * 145 + 3 * 65
    # Twice the outputs: conv2 has 16 units of 16 * 9, fc1 64 of 32 * 9, fc2 3 of 128
    assert count(build(config, keep_units=True)) == 8 * 10 + 16 * 145 + 64 * 289 + 3 * 129
    assert build(config).hidden_layers == ("conv1", "conv2", "fc1")
    with pytest.raises(ValueError, match="width 7 cannot be shared by 2 activations: give a mult"):
        build(CNN(hidden=(7,)))
    assert build(CNN(hidden=(7,)), keep_units=True).fc1.out_features == 7


def test_each_unit_feeds_two_blocks_of_columns():
    network = build(CNN(channels=(2, 4), hidden=(6,)))
    flow = trace_units(network, torch.rand(2, 1, 9, 9))
    columns = {each.name: each.readers[0].columns.tolist() for each in flow.layers[:-1]}
    # One unit of conv1 with the outputs 0 and 1; of conv2, two with 9 positions of each of two outputs.
    assert columns["conv1"] == [[0, 1]]
    assert columns["conv2"] == [
        [9 * c + 18 * k + n for k in range(2) for n in range(9)] for c in range(2)
    ]
    assert columns["fc1"] == [[0, 3], [1, 4], [2, 5]]
    assert all(each.not_followed is None for each in flow.layers)


def test_layer_norm_goes_before_it_in_either_order():
    spec = NetworkSpec(input_shape=(4,), output_size=2, layer=LayerSpec())
    for method in ([LayerNorm(), CReLU()], [CReLU(), LayerNorm()]):
        layer = MLP(hidden=(6,)).build(network_spec(method, spec)).fc1
        assert layer.normalization.normalized_shape == (3,)  # the units' sums
        sums = layer.normalization(functional.linear(torch.ones(4), layer.weight, layer.bias))
        assert torch.equal(layer(torch.ones(4)), torch.cat([sums.relu(), (-sums).relu()]))


def test_actor_and_critic_may_differ():
    policy = ActorCritic(3, 2, PPOConfig(hidden=(8,)), critic_method=[CReLU()])
    assert (policy.actor.fc1.out_features, policy.critic.fc1.out_features) == (8, 4)
    assert policy.critic.head.in_features == 8


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (CReLU(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((CReLU(),), syre, (WeightDecay(strength=0.01), CReLU()))
    continues_exactly(syre)
    continues_exactly(syre, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    syre = (CReLU(), Syre(strength=0.01, sigma=0.3))
    weaker = (syre[0], replace(syre[1], strength=0.001))
    assert len(ppo_continues_exactly(syre, critic_method=weaker)) == 2


def test_wrong_settings():
    with pytest.raises(TypeError, match="keep_units must be True or False, not 'yes'"):
        CReLU(keep_units="yes")
