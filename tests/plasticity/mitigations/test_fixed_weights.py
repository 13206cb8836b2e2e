"""Fixed weights: never changed by gradients, decay or momentum, alone, stacked and attached."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from plasticity import regularized
from plasticity.mitigations import L2Init, Syre
from plasticity.mitigations.attach import attach
from plasticity.mitigations.fixed_weights import FixedWeights
from plasticity.optim.parameter_groups import parameter_groups


@dataclass(frozen=True, kw_only=True)
class FirstColumn(FixedWeights):
    """The first incoming weights of each unit are held at a value."""

    name: ClassVar[str] = "first-column"

    value: float = 7.0

    def fixed(self, weight, generator):
        is_fixed = torch.zeros_like(weight, dtype=torch.bool)
        is_fixed[:, 0] = True
        return is_fixed, torch.full_like(weight, self.value)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 5), nn.Linear(5, 2)
    )


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        torch.sin(model(torch.randn(4, 2, 3, 3)) + 1).sum().backward()
        optimizer.step()


def fixed_columns(model):
    return [each.weight[:, 0].flatten() for each in model if hasattr(each, "in_channels")] + [
        each.weight[:, 0] for each in model if isinstance(each, nn.Linear)
    ]


@pytest.mark.parametrize(
    "base", [torch.optim.AdamW, lambda groups, **k: torch.optim.SGD(groups, momentum=0.9, **k)]
)
def test_torchs_own_decay_does_not_move_them(base):
    model = network()
    optimizer = base(model.parameters(), lr=0.01, weight_decay=0.5)
    attach(model, optimizer, FirstColumn())
    before = {name: each.clone() for name, each in model.named_parameters()}
    train(model, optimizer, 100)
    assert all((each == 7.0).all() for each in fixed_columns(model))
    assert [each.numel() for each in fixed_columns(model)] == [12, 5, 2]  # 3 units of 2 x 2
    for name, each in model.named_parameters():
        free = each[:, 1:] if each.dim() > 1 else each
        assert (free != (before[name][:, 1:] if each.dim() > 1 else before[name])).all(), name


@pytest.mark.parametrize("decay", [Syre(strength=0.5, sigma=1.0), L2Init(strength=0.5)])
def test_no_anchor_draws_them(decay):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attach(model, optimizer, FirstColumn(), decay)
    train(model, optimizer, 10)
    assert all((each == 7.0).all() for each in fixed_columns(model))


def test_their_gradients_are_0_at_the_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, FirstColumn())
    train(model, optimizer, 1)
    for layer in (model[0], model[3], model[4]):
        assert (layer.weight.grad[:, 0] == 0).all()
        assert (layer.weight.grad[:, 1:] != 0).all()
        assert (layer.bias.grad != 0).all()


def test_the_optimizer_of_the_house_has_no_moments_of_them():
    model = network()
    groups = parameter_groups(model, regularizer="none", strength=0.0)
    optimizer = regularized(torch.optim.Adam)(groups, lr=0.01)
    attach(model, optimizer, FirstColumn())
    train(model, optimizer, 3)
    moments = optimizer.state[model[3].weight]["exp_avg_sq"]
    assert (moments[:, 0] == 0).all()
    assert (moments[:, 1:] > 0).all()


def test_masks_and_values_are_part_of_the_networks_state():
    model = network()
    FirstColumn().initial_weights(model, 0)
    state = model.state_dict()
    assert state["3.weight_is_fixed"].sum(1).tolist() == [1] * 5
    assert state["3.weight_fixed"].sum(1).tolist() == [7.0] * 5
    assert "2.weight_is_fixed" not in state  # the normalization's


def test_a_tied_weight_is_fixed_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    FirstColumn().initial_weights(model, 0)
    assert [name for name, _ in model.named_buffers()] == ["0.weight_is_fixed", "0.weight_fixed"]


def test_a_network_without_such_weights_is_refused():
    with pytest.raises(
        ValueError, match="LayerNorm has no linear layer and no convolution: first-"
    ):
        FirstColumn().initial_weights(nn.LayerNorm(3), 0)
    model = nn.Sequential(weight_norm(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="The weight of '0' is computed from other parameters"):
        FirstColumn().initial_weights(model, 0)
