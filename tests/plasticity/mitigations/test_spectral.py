import pytest
import torch
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.mitigations import Spectral
from plasticity.mitigations.attach import attach


def attached_to(network, **settings):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    settings = {"strength": 1.0, **settings}
    inputs = torch.zeros(2, network[0].in_features)
    return attach(network, optimizer, Spectral(**settings), inputs=inputs)


def linear(weight, *, bias=None):
    weight = torch.tensor(weight)
    network = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None))
    with torch.no_grad():
        network[0].weight.copy_(weight)
        if bias is not None:
            network[0].bias.copy_(torch.tensor(bias))
    return network


def test_value_and_gradient_by_hand():
    # W = diag(3, 1): (3² - 1)² = 64, and 2 (σ² - 1) · 2 σ · u vᵀ = 2 · 8 · 6 = 96 at the largest.
    # Biases (1, 2): |b|⁴ = 25, with a gradient of 2 |b|² · 2 b = (20, 40).
    network = linear([[3.0, 0.0], [0.0, 1.0]], bias=[1.0, 2.0])
    penalty = attached_to(network).penalty()
    assert penalty.item() == pytest.approx(64 + 25)
    penalty.backward()
    expected = torch.tensor([[96.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(network[0].weight.grad, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(network[0].bias.grad, torch.tensor([20.0, 40.0]))


def test_there_is_none_at_an_isometry_without_biases_and_with_factors_of_1():
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    for layer in (network[0], network[3]):
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    attached = attached_to(network)
    penalty = attached.penalty()
    assert penalty.item() == pytest.approx(0, abs=1e-9)
    penalty.backward()  # of |b|⁴ at 0, too
    assert all(each.grad.abs().max() < 1e-5 for each in network.parameters())
    with torch.no_grad():
        network[1].weight.fill_(2.0)  # |γ - 1|² = 3
        network[1].bias[0] = 3.0  # |β|⁴ = 81
    assert attached.penalty().item() == pytest.approx(84, rel=1e-5)


@pytest.mark.parametrize(("power", "expected"), [(1, 4.0), (3, 676.0)])
def test_the_power(power, expected):
    """(3 - 1)² and (27 - 1)²."""
    network = linear([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert attached_to(network, power=power).penalty().item() == pytest.approx(expected)


def test_vectors_follow_a_weight_that_changes():
    torch.manual_seed(0)
    network = linear(torch.randn(6, 9).tolist())
    attached = attached_to(network, power=1)
    for _ in range(60):
        with torch.no_grad():
            network[0].weight.add_(0.01 * torch.randn(6, 9))
        penalty = attached.penalty()
    largest = torch.linalg.matrix_norm(network[0].weight, ord=2)
    assert penalty.item() == pytest.approx((largest.item() - 1) ** 2, rel=1e-2)


def test_a_weight_of_0_is_found_again():
    network = linear([[0.0, 0.0], [0.0, 0.0]])
    attached = attached_to(network, power=1)
    assert attached.penalty().item() == 1
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(2) * 3)
    assert attached.penalty().item() == pytest.approx(4)


def test_a_layer_that_is_frozen_at_first():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([2.0, 1.0])))  # (2² - 1)² = 9
        network[1].weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))  # 64
    network[0].requires_grad_(False)
    attached = attached_to(network)
    assert attached.penalty().item() == pytest.approx(64)
    network[0].requires_grad_(True)
    assert attached.penalty().item() == pytest.approx(73)


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((Spectral(strength=0.0),)), weights_after(()))


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = (Spectral(strength=1e-2),), (Spectral(strength=1e-1),)
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods)


def test_attached_as_learned():
    assert_attached_as_learned((Spectral(strength=0.1),))


def test_training_continues_exactly():
    assert_continues((Spectral(strength=0.1),))


@pytest.mark.parametrize(("field", "value"), [("strength", -1.0), ("power", 0), ("power", 1.5)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        Spectral(**{field: value})
