"""SGD on one example at a time, against autograd and the formula of the step."""

import copy

import pytest
import torch
from torch.nn import functional

from plasticity.agents.execution import rank_one_updates
from plasticity.agents.execution.rank_one import RankOneDescent
from plasticity.agents.networks import MLP
from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.optim.linear_step import LinearStep

RATE = 0.1


def make(activation="relu", hidden=(6, 5), *, dtype=torch.float64):
    torch.manual_seed(0)
    network = MLP(hidden=hidden, activation=activation).make((4,), 3).to(dtype)
    twin = copy.deepcopy(network)
    return network, twin, RankOneDescent(dict(network.named_parameters()), activation)


def step_of(network, strength, *, drawn=True, rate=RATE):
    generator = torch.Generator().manual_seed(1)
    anchors = {
        each: torch.randn(each.shape, generator=generator, dtype=torch.float64).to(each.dtype)
        for each in network.parameters()
    }
    return LinearStep({"lr": rate}, strength, anchors if drawn and strength else None)


def learn(descent, inputs, label):
    outputs = descent.forward(inputs)
    gradient = torch.softmax(outputs, -1)
    gradient[0, label] -= 1
    descent.descend(gradient)
    return outputs


def learn_by_autograd(twin, network, step, inputs, label):
    """theta - rate * (gradient + strength * (theta - anchor)), parameter by parameter."""
    outputs = twin(inputs)
    loss = functional.cross_entropy(outputs, torch.tensor([label]))
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    with torch.no_grad():
        for own, theirs, gradient in zip(
            twin.parameters(), network.parameters(), gradients, strict=True
        ):
            anchor = 0.0 if step.anchors is None else step.anchors[theirs]
            own.sub_(step.rate * (gradient + step.strength * (own - anchor)))
    return outputs.detach()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (6, 5), (4, 6, 3)])
def test_steps_equal_autograd(activation, hidden):
    network, twin, descent = make(activation, hidden)
    step = step_of(network, 0.0)
    descent.follow(step)
    for seed in range(5):
        inputs = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed)).double()
        found = learn(descent, inputs, seed % 3)
        expected = learn_by_autograd(twin, network, step, inputs, seed % 3)
        torch.testing.assert_close(found, expected)
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("at_once", [True, False], ids=["small", "large"])
@pytest.mark.parametrize("drawn", [True, False], ids=["anchors", "zero"])
@pytest.mark.parametrize("form", ["ScaledUpdate", "GoalUpdate"])
def test_decays_equal_their_formula(monkeypatch, at_once, drawn, form):
    if not at_once:  # parts of two rows of the second weight, and of one of the first and the last
        monkeypatch.setattr(rank_one_updates, "NUMBERS_AT_ONCE", 0)
        monkeypatch.setattr(rank_one_updates, "NUMBERS_IN_CACHE", 12)
    monkeypatch.setattr(rank_one_updates, "exceeds_rounding", lambda *_: form == "ScaledUpdate")
    network, twin, descent = make()
    step = step_of(network, 0.3, drawn=drawn)
    descent.follow(step)
    assert type(descent._update).__name__ == form
    for seed in range(4):
        inputs = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed)).double()
        learn(descent, inputs, seed % 3)
        learn_by_autograd(twin, network, step, inputs, seed % 3)
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_a_decay_below_the_rounding_error_is_not_lost():
    """Weights of 1 that get gradients, and a decay of a third of the spacing of floats below 1 in a step."""
    amount = 2e-8
    network, _, descent = make(hidden=(5,), dtype=torch.float32)
    with torch.no_grad():
        for each in network.parameters():
            each.fill_(1.0)
    descent.follow(LinearStep({"lr": 1e-4}, amount / 1e-4, None))
    assert type(descent._update).__name__ == "GoalUpdate"
    exact = torch.ones(3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    bias = list(network.parameters())[-1].detach()
    for _ in range(2000):
        descent.forward(torch.rand(1, 4, generator=generator))
        gradient = torch.randn(1, 3, generator=generator)
        # the gradient of the last bias is that of the outputs
        exact -= 1e-4 * gradient[0].double() + amount * bias.double()
        descent.descend(gradient)
    # without the decay it would be larger by 2000 * 2e-8 = 4e-5; rounding adds up to about 1e-6
    torch.testing.assert_close(bias.double(), exact, rtol=0, atol=5e-6)


def test_the_learning_rate_is_read_at_every_step():
    network, twin, descent = make()
    group = {"lr": RATE}
    step = LinearStep(group, 0.0, None)
    descent.follow(step)
    for rate in (0.1, 0.02):
        group["lr"] = rate
        inputs = torch.ones(1, 4, dtype=torch.float64)
        learn(descent, inputs, 1)
        learn_by_autograd(twin, network, step, inputs, 1)
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_an_update_is_made_anew_only_for_other_settings():
    network, _, descent = make()
    step = step_of(network, 0.3)
    descent.follow(step)
    first = descent._update
    descent.follow(LinearStep({"lr": RATE}, 0.3, step.anchors))
    assert descent._update is first
    descent.follow(step_of(network, 0.2))
    assert descent._update is not first


def test_inputs_of_layers_are_those_of_the_latest_pass():
    network, _, descent = make("gelu")
    descent.follow(step_of(network, 0.0))
    inputs = torch.ones(1, 4, dtype=torch.float64)
    descent.forward(inputs)
    features = network.fc1(inputs).detach()
    assert list(descent.layer_inputs) == ["fc1", "fc2", "fc3"]
    assert descent.layer_inputs["fc1"] is inputs
    torch.testing.assert_close(descent.layer_inputs["fc2"], features)
    torch.testing.assert_close(descent.layer_inputs["fc3"], network.fc2(features).detach())
