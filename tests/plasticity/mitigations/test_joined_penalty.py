"""Penalties that join the gradients before a step give the steps of a loop that adds them to its loss."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from plasticity.mitigations import Mitigation, ReDo
from plasticity.mitigations.attach import attach
from plasticity.mitigations.joined_penalty import join_penalty, repeated_pass


@dataclass(frozen=True, kw_only=True)
class Nothing(Mitigation):
    name: ClassVar[str] = "nothing"


@dataclass(frozen=True, kw_only=True)
class OnWeights(Mitigation):
    name: ClassVar[str] = "on-weights"

    def penalty(self, context):
        return 0.1 * context.parameters["0.weight"].pow(4).sum()


@dataclass(frozen=True, kw_only=True)
class OnFeatures(Mitigation):
    name: ClassVar[str] = "on-features"
    reads_units: ClassVar[bool] = True
    penalizes_features: ClassVar[bool] = True

    def penalty(self, context):
        outputs = context.forward(context.inputs)
        return 0.1 * context.features("0").square().mean() + outputs.abs().mean()


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3)
    ).double()


def train(mitigation, *, adds_penalty, steps=6):
    model = make_model()
    if isinstance(mitigation, OnFeatures):  # whose own pass would draw anew, and update statistics
        model[2], model[3] = nn.Identity(), nn.Identity()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reset = ReDo(every=4, tau=0.5)
    attached = attach(model, optimizer, mitigation, reset, adds_penalty=adds_penalty)
    torch.manual_seed(7)
    for _ in range(steps):
        loss = model(torch.randn(8, 5, dtype=torch.float64)).square().mean()
        optimizer.zero_grad()
        (loss + attached.penalty()).backward()
        optimizer.step()
    return model, attached.take_counts(), torch.rand(())


@pytest.mark.parametrize("mitigation", [OnWeights(), OnFeatures()])
def test_joined_penalty_equals_one_in_the_loss(mitigation):
    """The loop's random numbers and the running statistics are also the same."""
    model, counts, drawn = train(mitigation, adds_penalty=False)
    own, own_counts, own_drawn = train(mitigation, adds_penalty=True)
    assert sum(counts.values()) > 0
    assert own_counts == counts
    torch.testing.assert_close(own.state_dict(), model.state_dict(), rtol=1e-9, atol=1e-12)
    assert torch.equal(own_drawn, drawn)
    plain, _, _ = train(Nothing(), adds_penalty=False)
    assert not torch.allclose(plain[0].weight, model[0].weight, atol=1e-3)


def test_repeated_pass_leaves_no_trace():
    model = make_model()
    inputs = torch.randn(8, 5, dtype=torch.float64)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    with repeated_pass(model):
        assert model(inputs).requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])


def test_gradients_are_added():
    """d/dw (3 w²) = 6 w = 12 is added to a gradient of 1; a parameter without a gradient gets its own."""
    first, second, frozen = (nn.Parameter(torch.tensor(2.0)) for _ in range(3))
    frozen.requires_grad_(False)
    first.grad = torch.tensor(1.0)
    penalty = 3 * first.square() + 5 * second * frozen
    join_penalty(penalty, [first, second, frozen])
    assert (first.grad.item(), second.grad.item(), frozen.grad) == (13.0, 10.0, None)
    join_penalty(None, [first])
    join_penalty(torch.zeros(()), [first])
    assert first.grad.item() == 13.0
