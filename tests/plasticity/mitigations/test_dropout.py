"""Dropout: where it acts, the seeds of its noise, and whole runs."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import Dropout, ReDo, SeededMethod, Syre, WeightDecay, network_spec
from plasticity.modules.noise import SeededDropout
from plasticity.units import trace_units


def build(config, shape=(1, 9, 9), probability=0.5, anchor_seed=3):
    torch.manual_seed(0)
    method = SeededMethod((Dropout(probability=probability),), anchor_seed=anchor_seed)
    network = config.build(network_spec(method.mitigations, config.spec(shape, 3)))
    method.prepare(network)
    return network


def test_evaluation_drops_nothing_and_draws_nothing():
    config = CNN(channels=(4,), hidden=(8,))
    network, images = build(config), torch.rand(5, 1, 9, 9)
    torch.manual_seed(0)
    plain = config.build(config.spec((1, 9, 9), 3))
    torch.testing.assert_close(network.eval()(images), plain(images))
    assert network.conv1.noise.passes == network.fc1.noise.passes == 0
    before = torch.get_rng_state()
    assert not torch.equal(network.train()(images), network(images))
    assert network.conv1.noise.passes == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_hidden_layers_have_seeds_of_their_own_and_the_outputs_no_dropout():
    network = build(MLP(hidden=(8, 8)))
    noise = {name for name, each in network.named_modules() if isinstance(each, SeededDropout)}
    assert noise == {"fc1.noise", "fc2.noise"}
    other = build(MLP(hidden=(8, 8)), anchor_seed=4)
    seeds = {int(each.get_submodule(name).seed) for each in (network, other) for name in noise}
    assert len(seeds) == 4
    outputs = list(network.children())[-1]
    assert type(outputs) is nn.Linear


def test_units_and_readers_are_found():
    network = build(CNN(channels=(2,), hidden=(4,)))
    for mode in (True, False):
        flow = trace_units(network.train(mode), torch.rand(2, 1, 9, 9))
        assert [len(each.readers) for each in flow.layers] == [1, 1, 0]
        assert all(each.not_followed is None for each in flow.layers)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (Dropout(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((Dropout(),), syre, (WeightDecay(strength=0.01), Dropout()))
    resets = (Dropout(probability=0.3), ReDo(every=5, tau=0.3))
    continues_exactly(resets)
    continues_exactly(resets, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    assert ppo_continues_exactly((Dropout(),)) != ppo_continues_exactly(())


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_wrong_settings(probability):
    with pytest.raises(ValueError, match="probability"):
        Dropout(probability=probability)
