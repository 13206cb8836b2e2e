import copy

import pytest
import torch
from networks_in_training import adam, context_of, images, marker, single
from torch import nn
from training_by_hooks import (
    assert_attached_as_learned,
    assert_continues,
    assert_same,
    assert_stacked_as_alone,
    weights_after,
)

from plasticity.mitigations import Wasserstein
from plasticity.mitigations.attach import attach


def test_value_and_gradient_by_hand():
    # From (1, 2) to (3, 1): sorted, (1, 3) - (1, 2) = (0, 1), of which the mean square is 1 / 2. The entry of
    # 3 is the second, with a gradient of 2 · 1 / 2; that of 1 is where one was.
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, Wasserstein(strength=1.0))
    assert attached.penalty().item() == 0
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, 1.0]]))
    penalty = attached.penalty()
    assert penalty.item() == pytest.approx(0.5)
    penalty.backward()
    assert network.weight.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_there_is_none_where_entries_have_traded_places(seed):
    model = marker()
    context = context_of(single(model, adam(model), images()))
    wasserstein = Wasserstein(strength=1.0)
    context.state = wasserstein.initial_state(context)
    generator = torch.Generator().manual_seed(seed)
    before = copy.deepcopy(model)
    with torch.no_grad():
        for each in model.parameters():
            order = torch.randperm(each.numel(), generator=generator)
            each.copy_(each.flatten()[order].view(each.shape))
    assert wasserstein.penalty(context).item() == 0
    with torch.no_grad():
        for each, other in zip(model.parameters(), before.parameters(), strict=True):
            each.copy_(other + 1)
    # all entries of each of the six tensors, by 1
    assert wasserstein.penalty(context).item() == pytest.approx(6)


def test_a_layer_that_is_frozen_does_not_count():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[0].requires_grad_(False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, Wasserstein(strength=1.0))
    with torch.no_grad():
        network[0].weight.add_(1)
        network[1].weight.add_(2)
    assert attached.penalty().item() == pytest.approx(4)
    network[0].requires_grad_(True)
    assert attached.penalty().item() == pytest.approx(5)


def test_training_is_as_without_at_a_strength_of_0():
    assert_same(weights_after((Wasserstein(strength=0.0),)), weights_after(()))


def test_stacked_as_alone(ppo_stacked_as_alone):
    methods = (Wasserstein(strength=0.1),), (Wasserstein(strength=1.0),)
    assert_stacked_as_alone(*methods)
    ppo_stacked_as_alone(*methods)


def test_attached_as_learned():
    assert_attached_as_learned((Wasserstein(strength=1.0),))


def test_training_continues_exactly():
    assert_continues((Wasserstein(strength=1.0),))


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="strength"):
        Wasserstein(strength=-1.0)


def test_empty_parameters_count_nothing():
    network = nn.Linear(4, 3)
    network.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    attached = attach(network, torch.optim.SGD(network.parameters(), lr=0.1), Wasserstein())
    network(torch.zeros(2, 4))
    assert attached.penalty() == 0
