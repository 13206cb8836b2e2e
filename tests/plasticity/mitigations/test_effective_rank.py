import copy

import pytest
import torch
from networks_in_training import adam, images, marker
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.metrics import effective_rank
from plasticity.mitigations import EffectiveRank
from plasticity.mitigations.attach import attach
from plasticity.mitigations.effective_rank import differentiable_rank


@pytest.mark.parametrize(
    # The shares of (3, 1) are 3/4 and 1/4: exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 1.7548.
    ("values", "expected"),
    [((3.0, 1.0), 1.7548), ((1.0, 1.0, 0.0), 2.0), ((5.0, 0.0), 1.0), ((1.0,) * 4, 4.0)],
)
def test_ranks_by_hand(values, expected):
    torch.manual_seed(0)
    count = len(values)
    left, _ = torch.linalg.qr(torch.randn(7, count))
    right, _ = torch.linalg.qr(torch.randn(count, count))
    features = left @ torch.diag(torch.tensor(values)) @ right.mT
    for each in (features, features.mT, 100 * features):
        assert differentiable_rank(each).item() == pytest.approx(expected, abs=1e-3)
        assert differentiable_rank(each).item() == pytest.approx(
            effective_rank(each).item(), abs=1e-3
        )


def test_the_gradient_is_that_of_the_value():
    features = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(differentiable_rank, (features,))
    for each in (torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4)):
        each.requires_grad_()
        (found,) = torch.autograd.grad(differentiable_rank(each), each)
        assert found.isfinite().all()
        assert found.abs().max() < 100


def test_a_step_of_ascent_beside_the_optimizer():
    model, inputs = marker(), images(8)
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = adam(model), adam(plain)
    mitigation = EffectiveRank(every=2, learning_rate=0.1, examples=8)
    attached = attach(model, optimizer, mitigation, inputs=inputs)
    for _ in range(2):
        for each, own in ((model, optimizer), (plain, plain_optimizer)):
            own.zero_grad()
            each(inputs).square().mean().backward()
            own.step()
    maps = torch.tanh(plain.conv(inputs))
    features = torch.tanh(plain.fc(maps.flatten(1)))
    # each position of a map is a sample, each channel a unit
    ranks = [differentiable_rank(maps.permute(0, 2, 3, 1).flatten(0, 2))]
    ranks.append(differentiable_rank(features))
    hidden = [*plain.conv.parameters(), *plain.fc.parameters()]
    gradients = torch.autograd.grad(sum(ranks) / 2, hidden)
    for own, before, gradient in zip(model.parameters(), hidden, gradients, strict=False):
        torch.testing.assert_close(own, before + 0.1 * gradient)
    assert torch.equal(model.head.weight, plain.head.weight)  # upstream only
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        state, expected = optimizer.state[own], plain_optimizer.state[other]
        assert torch.equal(state["exp_avg"], expected["exp_avg"])
    assert attached.take_counts() == {}


def test_ranks_rise():
    """From 24 units that are all alike, but for rounding."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 2))
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight[:1] + 0.01 * torch.randn(24, 8))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    mitigation = EffectiveRank(every=1, learning_rate=0.05, examples=64)
    attach(network, optimizer, mitigation, inputs=torch.zeros(1, 8))
    inputs = torch.randn(64, 8)
    before = effective_rank(network[1](network[0](inputs)))
    for _ in range(30):
        network(inputs).sum().backward()
        optimizer.step()
    assert effective_rank(network[1](network[0](inputs))) > before + 2


def test_training_is_as_without_at_a_rate_of_0():
    mitigation = EffectiveRank(every=2, learning_rate=0.0, examples=10)
    assert_same(weights_after((mitigation,)), weights_after(()))


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = [(EffectiveRank(every=2, examples=16, learning_rate=rate),) for rate in (0.001, 0.01)]
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods, updates=2)


def test_attached_as_learned():
    assert_attached_as_learned((EffectiveRank(every=2, examples=10),))


def test_training_continues_exactly():
    assert_continues((EffectiveRank(every=3, examples=10, learning_rate=0.1),))


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("learning_rate", -1), ("examples", 0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        EffectiveRank(**{field: value})


def test_frozen_hidden_layers_are_left_alone():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attach(network, optimizer, EffectiveRank(every=1, learning_rate=1.0))
    inputs = torch.randn(6, 4)
    network(inputs).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    network[0].requires_grad_(requires_grad=False)
    before = network[0].weight.clone()
    network(inputs).sum().backward()
    optimizer.step()
    assert torch.equal(network[0].weight, before)


def test_a_diverged_network_stops_neither_itself_nor_those_beside_it():
    features = torch.randn(3, 6, 4)
    features[1, 0, 0] = float("nan")
    features.requires_grad_()
    ranks = differentiable_rank(features)
    ranks.sum().backward()
    alone = differentiable_rank(features[::2].detach())
    torch.testing.assert_close(ranks.detach()[::2], alone)
    assert features.grad[::2].isfinite().all()
