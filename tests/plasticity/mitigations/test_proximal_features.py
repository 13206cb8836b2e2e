import pytest
import torch
from networks_in_training import adam, images, marker
from torch import nn
from training_by_hooks import (
    alone,
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    batches_of,
    learn,
    prepared,
    weights_after,
)

from plasticity.mitigations import ProximalFeatures
from plasticity.mitigations.attach import attach


def test_value_and_gradient_by_hand():
    # Sums of the last hidden layer of (1, 2), which were (1, 0): (0 + 4) / 2 = 2, with a gradient of
    # 2 · 2 / 2 at the second. ReLU would hide a change below 0.
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(torch.tensor([1.0, 0.0]))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    inputs = torch.randn(5, 1)
    attached = attach(network, optimizer, ProximalFeatures(every=2), inputs=inputs)
    network(inputs)
    assert attached.penalty().item() == 0
    with torch.no_grad():
        network[2].bias[1] = 2.0
    penalty = attached.penalty()
    assert penalty.item() == pytest.approx(2.0)
    penalty.backward()
    assert network[2].bias.grad.tolist() == [0.0, 2.0]
    assert network[4].weight.grad is None
    with torch.no_grad():
        network[2].bias[1] = -2.0
    assert attached.penalty().item() == pytest.approx(2.0)


def test_old_features_are_those_after_each_so_many_steps():
    model = prepared(())
    run, optimizer, hooks = alone(model, (ProximalFeatures(every=3),))
    for step, inputs in enumerate(batches_of(7)):
        hooks.begin(lambda inputs=inputs: inputs)
        hooks.observe(inputs, {})
        assert (hooks.penalty().item() == 0) == (step % 3 == 0)
        learn(run, optimizer, hooks, [inputs])


def test_without_a_hidden_layer_it_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).double()
    _, _, hooks = alone(model, (ProximalFeatures(),))
    with pytest.raises(ValueError, match=r"No hidden layer feeds the output layers \['1'\]"):
        hooks.begin(lambda: images().double())


def test_a_convolution_before_the_output_counts_by_positions():
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    attached = attach(network, optimizer, ProximalFeatures(), inputs=images())
    network(images())
    with torch.no_grad():
        network[0].bias[0] += 3.0  # of one of two channels: 9 / 2
    assert attached.penalty().item() == pytest.approx(4.5)


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((ProximalFeatures(strength=0.0),)), weights_after(()))


def test_it_holds_the_features():
    distances = []
    for strength in (0.0, 10.0):
        model, inputs = marker(), images(8)
        optimizer = adam(model)
        attached = attach(model, optimizer, ProximalFeatures(strength=strength), inputs=inputs)

        def features(model=model, inputs=inputs):
            return model.fc(torch.tanh(model.conv(inputs)).flatten(1)).detach()

        before = features()
        for _ in range(20):
            optimizer.zero_grad()
            (model(inputs).mean() + attached.penalty()).backward()
            optimizer.step()
        distances.append((features() - before).square().mean())
    assert distances[1] < distances[0] / 2


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = [(ProximalFeatures(strength=each, every=3),) for each in (1.0, 10.0)]
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods, updates=2)


def test_attached_as_learned():
    assert_attached_as_learned((ProximalFeatures(every=3),))


def test_training_continues_exactly():
    assert_continues((ProximalFeatures(every=3),))


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("every", 0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ProximalFeatures(**{field: value})


def test_there_is_no_penalty_while_the_last_hidden_layer_is_frozen():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, ProximalFeatures(every=9), inputs=torch.randn(2, 4))
    (network(torch.randn(6, 4)).sum() + attached.penalty()).backward()
    optimizer.step()
    network(torch.randn(6, 4))
    assert attached.penalty() > 0
    network[0].requires_grad_(requires_grad=False)
    assert attached.penalty() == 0
