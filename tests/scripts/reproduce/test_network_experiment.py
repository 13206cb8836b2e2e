"""Experiment of one network: steps of its optimizer and decay, and exact resume."""

import pytest
import torch
from made_up_mitigations import Average, L2Penalty, Noise
from torch import nn
from torch.nn import functional

from plasticity.agents.networks.mlp import MLP
from plasticity.mitigations import LayerNorm, ReDo, Shift, Syre, WeightDecay
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
    return experiment.row(0).get("weight")


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


class Images(NetworkExperiment):
    """Network of the registry on noise, with dropout in front of it."""

    def make_network(self):
        return nn.Sequential(nn.Dropout(0.5), self.build(MLP(hidden=(8, 8)), (4,), 2))

    def loss(self):
        inputs = torch.randn(16, 4, generator=self.generator(f"batch/{self.steps}"))
        return functional.cross_entropy(self.network(inputs), (inputs[:, 0] > 0).long())

    def measure(self, run):
        outputs = self.network(torch.ones(1, 4))
        torch.testing.assert_close(outputs, self.network(torch.ones(1, 4)))  # nothing is dropped
        return {"output": outputs[0, 0].item()}


def test_a_penalty_is_part_of_the_loss():
    given = config(method=(L2Penalty(strength=0.25),), optimizer="sgd", learning_rate=0.5)
    experiment = Regression([given], stacked=False)
    start = experiment.network.weight.item()
    # As weight decay of that strength, above.
    assert walked(experiment, 3) == pytest.approx(0.8 + (start - 0.8) * 0.375**3, rel=1e-12)


def test_a_network_is_measured_with_its_evaluation_parameters():
    given = config(method=(Average(rate=0.5),), optimizer="sgd", learning_rate=1.0)
    experiment = Regression([given], stacked=False)
    start = experiment.network.weight.item()
    experiment.step()  # to the minimum, 1
    assert experiment.row(0)["weight"] == pytest.approx((start + 1) / 2, rel=1e-12)
    assert experiment.network.weight.item() == pytest.approx(1.0)


def test_the_shift_is_that_of_the_anchors_of_syre():
    weight = Regression([config(seed=3)], stacked=False).network.weight
    shifted = Regression([config(seed=3, method=(Shift(sigma=0.5),))], stacked=False).network.weight
    syre = Regression([config(seed=3, method=(Syre(sigma=0.5),))], stacked=False)
    anchor = syre.optimizer.anchor(syre.network.weight)
    assert anchor.item() != 0
    torch.testing.assert_close(shifted, weight + anchor)


@pytest.mark.parametrize("method", [(ReDo(every=2, tau=0.9),), (Noise(), WeightDecay())])
def test_mitigations_of_every_kind_continue_exactly(method):
    given = config(method=method)
    whole, first, second = (Images([given], stacked=False) for _ in range(3))
    torch.manual_seed(1)  # of the dropout; a run's folder keeps the state of this generator
    walked(whole, 7)
    torch.manual_seed(1)
    walked(first, 3)
    (state,) = first.state_dicts([0])
    second.load_state_dict(0, state)
    walked(second, 4)
    plain = Images([config()], stacked=False)
    torch.manual_seed(1)
    walked(plain, 7)
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], weights)
        assert not torch.equal(plain.network.state_dict()[name], weights)


def test_rows_tell_what_was_reset():
    experiment = Images([config(method=(ReDo(every=2, tau=0.9),))], stacked=False)
    for _ in range(2):
        experiment.step()
    counts = {name: value for name, value in experiment.row(0).items() if "reset" in name}
    assert len(counts) == 2
    assert sum(counts.values()) > 0
    assert experiment.network.training


def test_a_method_edits_the_networks_of_the_registry():
    network = Images([config(method=(LayerNorm(),))], stacked=False).network
    assert sum(isinstance(each, nn.LayerNorm) for each in network.modules()) == 2


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ValueError, match="layer-norm changes the architecture of a network, and b"):
        Regression([config(method=(LayerNorm(),))], stacked=False)
    with pytest.raises(ValueError, match=r"momentum=0\.9 is a setting of sgd, not of adam"):
        config(momentum=0.9)
    with pytest.raises(ValueError, match="adam"):
        config(optimizer="adaam")
    with pytest.raises(ValueError, match="learning_rate"):
        config(learning_rate=-1.0)
