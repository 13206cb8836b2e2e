"""W-asymmetric networks: how many weights are fixed, at what, the same everywhere, and whole runs."""

import subprocess
import sys

import pytest
import torch

from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import LayerNorm, ReDo, Syre, WAsymmetric, WeightDecay
from plasticity.mitigations.attach import attach

DRAW = """
import torch
from torch import nn
from plasticity.mitigations import WAsymmetric
network = nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 3))
WAsymmetric(share=0.4).initial_weights(network, 11)
print([each.nonzero().tolist() for n, each in network.named_buffers() if "is_fixed" in n])
print([each.tolist() for n, each in network.named_buffers() if n.endswith("weight_fixed")])
"""


def build(config, shape=(1, 9, 9), seed=3, **settings):
    torch.manual_seed(0)
    network = config.build(config.spec(shape, 3))
    WAsymmetric(**settings).initial_weights(network, seed)
    return network


def test_each_unit_has_the_same_number_at_positions_of_its_own():
    network = build(CNN(channels=(4, 16), hidden=(64,)), share=0.25)
    counts = {"conv1": 2, "conv2": 9, "fc1": 36, "fc2": 16}  # a quarter of 9, 36, 144 and 64
    for name, count in counts.items():
        mask = network.get_submodule(name).weight_is_fixed.flatten(1)
        assert mask.sum(1).tolist() == [count] * len(mask)
    assert len({tuple(row) for row in network.fc1.weight_is_fixed.tolist()}) == 64


def test_the_values_are_normal_whatever_the_fan_in():
    network = build(MLP(hidden=(400,)), shape=(200,), kappa=3.0, share=0.5)
    values = network.fc1.weight[network.fc1.weight_is_fixed]
    assert values.std().item() == pytest.approx(3.0, rel=0.02)  # of 40,000: 4 standard errors 0.014
    assert abs(values.mean().item()) < 0.06
    free = network.fc1.weight[~network.fc1.weight_is_fixed]
    assert free.abs().max() <= 200**-0.5


def test_at_least_one_weight_is_fixed_and_one_is_free():
    for share, count in ((0.01, 1), (0.99, 3)):
        network = build(MLP(hidden=(5,)), shape=(4,), share=share)
        assert network.fc1.weight_is_fixed.sum(1).tolist() == [count] * 5


def test_the_gradient_of_a_unit_has_as_many_entries_as_it_has_free_weights():
    network = build(MLP(hidden=(8,), activation="tanh"), shape=(12,), share=0.25)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    attach(network, optimizer, WAsymmetric(share=0.25), seed=1)
    fixed = {name: network.get_submodule(name).weight_fixed.clone() for name in ("fc1", "fc2")}
    for _ in range(100):
        optimizer.zero_grad()
        network(torch.randn(16, 12)).square().sum().backward()
        optimizer.step()
    assert network.fc1.weight.grad.ne(0).sum(1).tolist() == [12 - 3] * 8
    assert network.fc2.weight.grad.ne(0).sum(1).tolist() == [8 - 2] * 3
    for name, values in fixed.items():
        layer = network.get_submodule(name)
        assert torch.equal(layer.weight[layer.weight_is_fixed], values[layer.weight_is_fixed])


def test_two_processes_have_the_same_masks_and_values():
    found = {
        subprocess.run(
            [sys.executable, "-c", DRAW], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1
    assert next(iter(found)).count("[[") > 0


def test_another_seed_and_another_layer_have_others():
    one, other = (build(MLP(hidden=(12, 12)), shape=(12,), seed=seed) for seed in (1, 2))
    assert not torch.equal(one.fc1.weight_fixed, other.fc1.weight_fixed)
    assert not torch.equal(one.fc1.weight_is_fixed, one.fc2.weight_is_fixed)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (LayerNorm(), WAsymmetric(), Syre(strength=0.01, sigma=0.3))
    stacked_as_alone(
        (LayerNorm(), WAsymmetric(kappa=0.5)),
        syre,
        (LayerNorm(), WAsymmetric(), WeightDecay(strength=0.01)),
    )
    continues_exactly(syre)
    continues_exactly(syre, stacked=True)


def test_units_are_reset_around_them(continues_exactly):
    continues_exactly((ReDo(every=3, tau=0.5), WAsymmetric(kappa=0.1)))


def test_whole_runs_of_ppo(ppo_continues_exactly):
    weaker = WAsymmetric(kappa=0.2)
    method = (weaker, Syre(strength=0.01, sigma=0.3))
    assert len(ppo_continues_exactly(method)) == 2


def test_stacked_policies(ppo_stacked_as_alone):
    ppo_stacked_as_alone((WAsymmetric(kappa=0.2),), (WAsymmetric(share=0.3, kappa=0.1),))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"share": 0.0}, ValueError, "share must be above 0 and below 1, not 0.0"),
        ({"share": 1.0}, ValueError, "share must be above 0 and below 1, not 1.0"),
        ({"share": "1"}, TypeError, "share"),
        ({"kappa": -1.0}, ValueError, "kappa must be a finite number of at least 0"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        WAsymmetric(**settings)
