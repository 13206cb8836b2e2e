import math

import pytest
import torch
from networks_in_training import adam
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.mitigations import Churn
from plasticity.mitigations.attach import attach
from plasticity.mitigations.churn import _divergence


class Offsets:
    """Network whose outputs are its biases, whatever the input, with penalties of a strength of 1."""

    def __init__(self, outputs=2, **settings):
        self.network = nn.Sequential(nn.Linear(1, outputs))
        with torch.no_grad():
            self.network[0].weight.zero_()
            self.network[0].bias.zero_()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        settings = {"strength": 1.0, "references": 3, "memory": 8, **settings}
        self.attached = attach(self.network, self.optimizer, Churn(**settings))

    def step(self, *change):
        """Take a step that adds to the biases, and return the penalty before it."""
        self.optimizer.zero_grad()
        outputs = self.network(torch.zeros(2, 1))
        penalty = self.attached.penalty()
        (outputs.mean(0) @ -torch.tensor(change)).backward()
        self.optimizer.step()
        return penalty.detach()


def test_value_and_gradient_by_hand():
    # Two steps without reference inputs, then outputs of (1, 0) that were (0, 0): a mean square of 1/2.
    run = Offsets()
    assert run.step(3.0, 2.0).item() == 0
    assert run.step(1.0, 0.0).item() == 0
    run.optimizer.zero_grad()
    run.attached.penalty().backward()
    assert run.network[0].bias.grad.tolist() == [1.0, 0.0]
    assert run.step(0.0, 0.0).item() == pytest.approx(0.5)
    assert run.step(0.0, 4.0).item() == 0  # nothing changed in the step before
    assert run.step(0.0, 0.0).item() == pytest.approx(8.0)


def test_the_divergence_of_classes():
    # From (1/2, 1/2) to (3/4, 1/4): 1/2 ln 2/3 + 1/2 ln 2.
    run = Offsets(distance="kl")
    run.step(0.0, 0.0)
    run.step(math.log(3.0), 0.0)
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert run.step(0.0, 0.0).item() == pytest.approx(expected)
    equal = torch.randn(4, 3)
    torch.testing.assert_close(_divergence(equal, equal + 2.0), torch.zeros(4))


def test_a_single_output_has_the_squared_difference():
    run = Offsets(outputs=1, distance="kl")
    run.step(0.0)
    run.step(3.0)
    assert run.step(0.0).item() == pytest.approx(9.0)


def test_reference_inputs_are_of_neither_this_step_nor_the_previous_one():
    network = nn.Linear(1, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    attached = attach(network, optimizer, Churn(references=50, memory=10))

    def reference():
        return attached.state_dict()["mitigations"]["churn"]["state"]["reference"]

    seen = []
    for step in range(8):
        if step > 1:  # before the step
            found = set(reference().flatten().tolist())
            assert found <= set(range(step - 1))
            assert found >= set(range(max(step - 4, 0), step - 2))
        optimizer.zero_grad()
        (network(torch.full((3, 1), float(step))).sum() + attached.penalty()).backward()
        optimizer.step()
        seen.append(step)


def test_an_update_is_held_back_by_the_penalty_on_the_previous_one():
    """With momentum, outputs go on in the direction of the previous step; the penalty slows them."""
    sizes = []
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5)
        attached = attach(network, optimizer, Churn(strength=strength, memory=64))
        probe, change = torch.randn(64, 3), 0.0
        for step in range(30):
            inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            before = network(probe).detach()
            outputs = network(inputs)
            optimizer.zero_grad()
            ((outputs - inputs[:, :2]).square().mean() + attached.penalty()).backward()
            optimizer.step()
            change += (network(probe).detach() - before).square().mean().item()
        sizes.append(change)
    assert sizes[1] < sizes[0]


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((Churn(strength=0.0),)), weights_after(()))


@pytest.mark.parametrize("distance", ["squared", "kl"])
def test_stacked_as_alone(ppo_stacked_as_alone, distance):
    methods = [(Churn(strength=each, memory=20, distance=distance),) for each in (1.0, 10.0)]
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods, updates=2)


def test_attached_as_learned():
    assert_attached_as_learned((Churn(strength=1.0, memory=20),))


def test_training_continues_exactly():
    assert_continues((Churn(strength=1.0, memory=20),))


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((Churn(strength=1.0),))


def test_dropout_and_running_statistics_are_those_of_the_run_without():
    found = []
    for method in ((Churn(strength=0.0),), ()):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        )
        optimizer = adam(network)
        attached = attach(network, optimizer, *method) if method else None
        for step in range(4):
            inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = network(inputs).square().mean()
            (loss if attached is None else loss + attached.penalty()).backward()
            optimizer.step()
        found.append([*network.state_dict().values(), torch.get_rng_state()])
    for own, plain in zip(*found, strict=True):
        assert torch.equal(own, plain)


@pytest.mark.parametrize(
    ("field", "value"), [("strength", -1.0), ("distance", "l2"), ("references", 0), ("memory", 0)]
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Churn(**{field: value})
