"""W-fix: weights that stay bit by bit, whatever else acts on them, and whole runs."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import Mitigation, ReDo, SeededMethod, Syre, WeightDecay, WFix
from plasticity.mitigations.attach import attach
from plasticity.tasks.streams.base import TaskSpec


@dataclass(frozen=True, kw_only=True)
class Overwrite(Mitigation):
    """New weights after every step and at every boundary."""

    name: ClassVar[str] = "overwrite"
    claims: ClassVar[str] = "all weights"

    def after_step(self, context):
        for name, weight in context.parameters.items():
            weight.copy_(context.fresh(name))

    boundary = after_step


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def inputs(seed=0):
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))


def prepared(method):
    network = model()
    method.prepare(network)
    return network


def train(network, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        network(inputs(step)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "others",
    [
        (),
        (WeightDecay(strength=0.1, decoupled=True),),
        (Syre(strength=0.1, sigma=1.0, decoupled=True),),
        (ReDo(every=3, tau=2.0),),
        (Overwrite(),),
    ],
)
def test_held_weights_are_constant_over_100_steps(others, first):
    """AdamW with its decay or one of ours, resets and other weights, in any order; the rest moves."""
    network, start = model(), model()
    decay = 0.0 if others and isinstance(others[0], WeightDecay | Syre) else 0.5
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=decay)
    fix = WFix(share=0.4)
    method = (fix, *others) if first else (*others, fix)
    attached = attach(network, optimizer, *method, inputs=inputs())
    train(network, optimizer, 100)
    attached.boundary(1)
    for index in (0, 3):
        held = network[index].weight_is_fixed
        moved = network[index].weight != start[index].weight
        assert not moved[held].any()
        assert moved[~held].all()
    assert not torch.equal(network[0].bias, start[0].bias)


def test_a_share_of_the_weights_is_held():
    network = nn.Linear(400, 250)
    before = network.weight.clone()
    WFix(share=0.3).initial_weights(network, 0)
    assert torch.equal(network.weight, before)
    held = network.weight_is_fixed.float()
    # 100,000 weights: within 5 standard errors; rows differ
    assert held.mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 1e5) ** 0.5)
    assert not torch.equal(held[0], held[1])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_are_held(share):
    plain, fixed = model(), model()
    for network in (plain, fixed):
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        if network is fixed:
            attach(network, optimizer, WFix(share=share))
        train(network, optimizer, 5)
    expected = plain if share == 0 else model()
    assert torch.equal(fixed[0].weight, expected[0].weight)
    assert torch.equal(fixed[3].weight, expected[3].weight)


def test_the_seed_of_the_anchors_decides_which_are_held():
    first, again, other = (
        prepared(SeededMethod((WFix(share=0.5),), anchor_seed=seed))[3].weight_is_fixed
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_classifier_holds_them():
    config = MLP(hidden=(8,))
    network = config.build(config.spec((1, 3, 3), 2))
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    settings = ClassifierConfig(optimizer="adamw", learning_rate=0.01)
    method = SeededMethod((WFix(share=0.5), WeightDecay(strength=0.5)))
    classifier = Classifier(network, settings, method, data_order_seed=0)
    classifier._loss.follow(TaskSpec(input_shape=(1, 3, 3), output_size=2))
    for _ in range(100):
        classifier._train_step(torch.rand(4, 1, 3, 3), torch.tensor([0, 1, 1, 0]))
    trained = dict(classifier._networks.parameters)
    for name in ("fc1", "fc2"):
        held = classifier._networks.buffers[f"{name}.weight_is_fixed"]
        moved = trained[f"{name}.weight"] != before[f"{name}.weight"]
        assert torch.equal(moved, ~held)
        assert 0 < held.float().mean() < 1


def test_whole_runs(stacked_as_alone, continues_exactly):
    stacked_as_alone((WFix(share=0.1),), (WFix(share=0.5),))
    resets = (WFix(share=0.3), ReDo(every=5, tau=0.3))
    continues_exactly(resets)
    continues_exactly(resets, stacked=True)


def test_whole_runs_of_ppo(ppo_continues_exactly):
    assert ppo_continues_exactly((WFix(),)) != ppo_continues_exactly(())


@pytest.mark.parametrize("share", [1.1, -0.1, float("nan")])
def test_wrong_settings(share):
    with pytest.raises(ValueError, match="share"):
        WFix(share=share)
