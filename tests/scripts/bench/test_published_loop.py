"""The loop that ours is compared with does what it is to stand for."""

import pytest
import torch
from torch.nn import functional

from plasticity.scripts.bench.published_loop import (
    GenerateAndTest,
    ListedNetwork,
    PublishedLoop,
)


def data(count=40):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 6, generator=generator)
    return 2 * noise - 1 + 4 * (2 * labels.unsqueeze(1) - 1), labels


def test_it_learns_one_example_at_a_time():
    inputs, labels = data()
    loop = PublishedLoop((8, 8), inputs, labels, classes=2)
    network = loop._network
    before = [each.detach().clone() for each in network.parameters()]
    output, _ = network.predict(inputs[:1])
    loss = functional.cross_entropy(output, labels[:1])
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    loop.steps(1)
    for own, old, gradient in zip(network.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(own.detach(), old - 0.003 * gradient)
    loop.steps(20 * 40)  # 20 times through the data
    assert loop.accuracies.mean() > 0.9
    assert loop._position == 1


def test_features_are_those_of_the_hidden_layers():
    network = ListedNetwork(6, (5, 4), 2)
    inputs, _ = data()
    _, features = network.predict(inputs)
    assert [each.shape for each in features] == [(40, 5), (40, 4)]
    assert all(bool((each >= 0).all()) for each in features)


def test_old_units_of_the_least_utility_are_replaced(monkeypatch):
    monkeypatch.setattr("plasticity.scripts.bench.published_loop.REPLACEMENT_RATE", 0.25)
    monkeypatch.setattr("plasticity.scripts.bench.published_loop.MATURITY", 2)
    network = ListedNetwork(3, (4,), 2)
    test = GenerateAndTest(network)
    incoming, outgoing = network.layers[0].weight, network.layers[2].weight
    with torch.no_grad():
        outgoing[:, 1] = 1e-6  # hardly used
    before = incoming.detach().clone()
    features = [torch.tensor([[1.0, 2.0, 3.0, 4.0]])]
    for step in range(3):  # the features differ, or all are at their means
        test.step([features[0] * (1 + step)])
        if step < 2:  # an age of 3 steps exceeds 2
            assert torch.equal(incoming, before)
    # 4 old units times 0.25: one
    changed = (incoming != before).any(1)
    assert changed.tolist() == [False, True, False, False]
    assert not outgoing[:, 1].any()
    assert test._statistics[0].age.tolist() == [3, 0, 3, 3]
    assert float(incoming[1].detach().abs().max()) <= (6 / 3) ** 0.5


@pytest.mark.parametrize("continual", [False, True])
def test_averages_follow_the_published_formula(continual):
    inputs, labels = data()
    loop = PublishedLoop((5,), inputs, labels, classes=2, continual=continual)
    assert (loop._test is not None) == continual
    loop.steps(1)
    if not continual:
        return
    # after one step, the average corrected for its beginning is the feature itself: distance 0
    own = loop._test._statistics[0]
    torch.testing.assert_close(own.utility, torch.zeros(5))
    _, (features,) = ListedNetwork.predict(loop._network, inputs[:1])
    assert own.mean.shape == features[0].shape
    assert own.age.tolist() == [1.0] * 5
