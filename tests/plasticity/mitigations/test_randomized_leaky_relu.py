"""Randomized leaky activations: seeds of each layer, evaluation, and whole runs."""

import pytest
import torch

from plasticity.agents.networks import CNN, MLP, ResNet
from plasticity.mitigations import (
    RandomizedLeakyReLU,
    ReDo,
    SeededMethod,
    Syre,
    WeightDecay,
    network_spec,
)
from plasticity.modules.noise import RandomSlopes
from plasticity.stacking import StackedNetworks
from plasticity.units import trace_units


def build(config, anchor_seed=3, **settings):
    torch.manual_seed(0)
    method = SeededMethod((RandomizedLeakyReLU(**settings),), anchor_seed=anchor_seed)
    network = config.build(network_spec(method.mitigations, config.spec((1, 9, 9), 3)))
    method.prepare(network)
    return network


def slopes_of(network):
    return {name: each for name, each in network.named_modules() if type(each) is RandomSlopes}


@pytest.mark.parametrize("smooth", [True, False])
def test_evaluation_is_that_of_a_network_with_the_middle_slope(smooth):
    config, images = CNN(channels=(4,), hidden=(8,)), torch.randn(5, 1, 9, 9)
    network = build(config, smooth=smooth)
    middle = build(config, lower=11 / 48, upper=11 / 48, smooth=smooth)
    torch.testing.assert_close(network.eval()(images), middle(images))
    assert not torch.equal(network.train()(images), network(images))
    assert [int(each.passes) for each in slopes_of(network).values()] == [2, 2]


def test_layers_have_seeds_of_their_own():
    one, other = build(MLP(hidden=(8, 8))), build(MLP(hidden=(8, 8)), anchor_seed=4)
    assert list(slopes_of(one)) == ["fc1.gate", "fc2.gate"]
    seeds = {int(each.seed) for network in (one, other) for each in slopes_of(network).values()}
    assert len(seeds) == 4


def test_both_activations_of_a_residual_block_are_random():
    network = build(ResNet(width=2, blocks=(1, 1)))
    names = [name for name in slopes_of(network) if name.startswith("stage2")]
    assert names == ["stage2.0.gate", "stage2.0.conv1.gate"]
    network(torch.randn(2, 1, 9, 9))
    assert {int(each.passes) for each in slopes_of(network).values()} == {1}


def test_stacked_networks_draw_what_each_draws_alone():
    config = CNN(channels=(4,), hidden=(8,))
    networks = [build(config, anchor_seed=seed).double() for seed in range(3)]
    stacked, images = StackedNetworks(networks), torch.randn(3, 5, 1, 9, 9).double()
    for _ in range(2):
        alone = [network(own) for network, own in zip(networks, images, strict=True)]
        torch.testing.assert_close(stacked(images), torch.stack(alone), rtol=1e-9, atol=1e-9)
    assert stacked.buffers["fc1.gate.passes"].tolist() == [2, 2, 2]


def test_units_and_readers_are_found():
    flow = trace_units(build(CNN(channels=(2,), hidden=(4,))), torch.rand(2, 1, 9, 9))
    assert [len(each.readers) for each in flow.layers] == [1, 1, 0]
    assert all(each.not_followed is None and each.unequal is None for each in flow.layers)


def test_whole_runs(stacked_as_alone, continues_exactly):
    method = RandomizedLeakyReLU()
    syre = (method, Syre(strength=0.01, sigma=0.3))
    stacked_as_alone((method,), syre, (WeightDecay(strength=0.01), method))
    resets = (method, ReDo(every=5, tau=0.3))
    continues_exactly(resets)
    continues_exactly(resets, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    assert ppo_continues_exactly((RandomizedLeakyReLU(),)) != ppo_continues_exactly(())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lower": -0.1}, ValueError, "lower must be a finite number of at least 0"),
        ({"lower": 0.5, "upper": 0.4}, ValueError, "upper must be .* at least 0.5 and below 1"),
        ({"smooth": 1}, TypeError, "smooth must be True or False, not 1"),
        ({"sharpness": 0.0}, ValueError, "sharpness must be above 0"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        RandomizedLeakyReLU(**settings)
