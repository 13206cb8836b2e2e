"""Experiment of one network: steps of its optimizer and decay, and exact resume."""

import pytest
import torch
from torch import nn

from plasticity.mitigations import Shift, WeightDecay
from plasticity.scripts.reproduce.network_experiment import (
    NetworkExperiment,
    NetworkFigureConfig,
    NetworkTraining,
)
from plasticity.seeds import child_seed


class Regression(NetworkExperiment):
    """A weight, in float64, whose loss is half the squared distance from 1, or a noisy one."""

    noise = 0.0

    def make_network(self):
        return nn.Linear(1, 1, bias=False, dtype=torch.float64)

    def loss(self):
        generator = self.generator(f"noise/{self.steps}")
        noise = torch.randn((), generator=generator, dtype=torch.float64)
        return (self.network.weight - 1 - self.noise * noise).square().sum() / 2

    def measure(self, run):
        return {"weight": self.network.weight.item()}


class Noisy(Regression):
    noise = 1.0


def config(seed=0, method=(), **training):
    agent = NetworkTraining(**training)
    return NetworkFigureConfig(benchmark="b", seed=seed, method=method, agent=agent)


def walked(experiment, steps):
    for _ in range(steps):
        experiment.step()
        experiment.steps += 1
    return experiment.measure(0)["weight"]


def test_a_step_is_that_of_the_optimizer_and_the_decay():
    given = config(method=(WeightDecay(strength=0.25),), optimizer="sgd", learning_rate=0.5)
    experiment = Regression([given], stacked=False)
    start = experiment.network.weight.item()
    # w ← w - 0.5 (w - 1 + 0.25 w): toward 1 / 1.25 = 0.8, by a factor of 1 - 0.625 a step.
    assert walked(experiment, 3) == pytest.approx(0.8 + (start - 0.8) * 0.375**3, rel=1e-12)


def test_weights_are_a_child_seed_of_the_run():
    torch.manual_seed(child_seed(7, "weights"))
    expected = nn.Linear(1, 1, bias=False, dtype=torch.float64).weight.item()
    assert Regression([config(seed=7)], stacked=False).network.weight.item() == expected
    assert Regression([config(seed=8)], stacked=False).network.weight.item() != expected


def test_it_continues_exactly():
    given = config(method=(WeightDecay(),))
    whole, first, second = (Noisy([given], stacked=False) for _ in range(3))
    expected = walked(whole, 10)
    walked(first, 4)
    (state,) = first.state_dicts([0])
    second.load_state_dict(0, state)
    assert walked(second, 6) == expected
    assert walked(Regression([given], stacked=False), 10) != expected


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ValueError, match="trains with decays only, not with shift"):
        config(method=(Shift(),))
    with pytest.raises(ValueError, match="adam"):
        config(optimizer="adaam")
    with pytest.raises(ValueError, match="learning_rate"):
        config(learning_rate=-1.0)
