"""Dropout: its mean, its noise as a function of seed and pass, and whole runs."""

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import Dropout, ReDo, SeededMethod, Syre, WeightDecay, network_spec
from plasticity.mitigations.dropout import SeededDropout, random_bits
from plasticity.units import trace_units


def build(config, shape=(1, 9, 9), probability=0.5, anchor_seed=3):
    torch.manual_seed(0)
    method = SeededMethod((Dropout(probability=probability),), anchor_seed=anchor_seed)
    network = config.build(network_spec(method.mitigations, config.spec(shape, 3)))
    method.prepare(network)
    return network


def mixed(number):
    """Return a number mixed by lowbias32, in Python's integers."""
    number ^= number >> 16
    number = number * 0x7FEB352D % 2**32
    number ^= number >> 15
    number = number * 0x846CA68B % 2**32
    return number ^ number >> 16


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**31 + 5])
def test_bits_are_those_of_the_hash_without_overflow(seed):
    found = random_bits(torch.tensor(seed), torch.tensor(7), torch.arange(3))
    key = mixed(mixed(mixed(seed >> 32) ^ seed % 2**32) ^ 7)
    other = mixed(key ^ 0xFFFFFFFF)
    assert found.tolist() == [mixed((mixed(each ^ key) + other) % 2**32) for each in range(3)]


def test_a_quarter_is_dropped_and_the_mean_stays():
    """Over 1000 passes, each entry's mean is within 5 standard errors of itself, and so is the share."""
    layer, features = SeededDropout(0.25, seed=5), torch.tensor([1.0, -2.0, 0.0, 4.0] * 8)
    outputs = torch.stack([layer(features) for _ in range(1000)])
    error = features.abs() * (0.25 / 0.75 / 1000) ** 0.5
    assert ((outputs.mean(0) - features).abs() <= 5 * error).all()
    kept = outputs[:, features != 0] != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=5 * (0.1875 / 24_000) ** 0.5)
    assert outputs[:, 0].unique().tolist() == pytest.approx([0.0, 4 / 3])
    # Neither the passes nor the entries go together: covariances within 5 standard errors of 0.
    centred = kept.float() - 0.75
    for shifted in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(shifted.mean().item()) < 5 * 0.1875 / shifted.numel() ** 0.5


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
