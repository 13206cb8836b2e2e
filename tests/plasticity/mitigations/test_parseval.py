import pytest
import torch
from networks_in_training import adam, context_of, images, marker, single
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.mitigations import Parseval
from plasticity.mitigations.attach import attach


def two_layers(weight):
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(weight))
    return network


def test_value_and_gradient_by_hand():
    # |W Wᵀ - I|² of [[1, 1], [0, 1]] is that of [[1, 1], [1, 0]]: 3. Its gradient 4 (W Wᵀ - I) W is
    # [[4, 8], [4, 4]]. For 2 rows, the factor is (64 / 2)² = 1024. The output's weights are left alone.
    network = two_layers([[1.0, 1.0], [0.0, 1.0]])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    parseval = Parseval(strength=1 / 1024, target=1.0)
    attached = attach(network, optimizer, parseval, inputs=torch.zeros(1, 2))
    penalty = attached.penalty()
    assert penalty.item() == pytest.approx(3)
    penalty.backward()
    torch.testing.assert_close(network[0].weight.grad, torch.tensor([[4.0, 8.0], [4.0, 4.0]]))
    assert network[0].bias.grad is None
    assert network[2].weight.grad is None


def test_there_is_none_where_rows_are_orthogonal_with_the_length_that_is_wanted():
    network = two_layers([[1.0, 1.0], [-1.0, 1.0]])  # rows of length sqrt(2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, Parseval(), inputs=torch.zeros(1, 2))
    assert attached.penalty().item() == pytest.approx(0, abs=1e-6)


def test_each_layer_counts_by_its_smaller_side():
    """The convolution has 3 units of 4 inputs, the dense layer 5 units of 12 inputs."""
    model = marker()
    context = context_of(single(model, adam(model), images()))
    found = Parseval(strength=1.0, target=0.5).penalty(context)
    expected = 0.0
    for weight, size in ((model.conv.weight.flatten(1), 3), (model.fc.weight, 5)):
        rows = weight @ weight.T
        expected += (64 / size) ** 2 * (rows - 0.5 * torch.eye(size)).square().sum()
    torch.testing.assert_close(found, expected)


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((Parseval(strength=0.0),)), weights_after(()))


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = (Parseval(strength=1e-4),), (Parseval(strength=1e-3, target=1.0),)
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods)


def test_attached_as_learned():
    assert_attached_as_learned((Parseval(),))


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("target", "a")])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        Parseval(**{field: value})
