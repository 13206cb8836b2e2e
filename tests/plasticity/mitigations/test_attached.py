"""Roles, added parameters and penalties of attached mitigations."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from plain_loops import Extra, make_batch, make_model, train
from torch import nn

from plasticity.mitigations import (
    MITIGATIONS,
    EffectiveRank,
    InFeR,
    Mitigation,
    Parseval,
    ProximalFeatures,
)
from plasticity.mitigations.attach import attach
from plasticity.optim import regularized


@dataclass(frozen=True, kw_only=True)
class Halve(Mitigation):
    """Halves the hidden weights after each step."""

    name: ClassVar[str] = "halve"
    reads_roles: ClassVar[bool] = True

    def after_step(self, context):
        for name, role in context.roles.items():
            if role.kind == "weight" and not role.is_output:
                context.parameters[name].mul_(0.5)


@pytest.mark.parametrize("given", [True, False])
def test_roles_of_trained_parameters_are_those_that_a_mitigation_sees(given):
    """The second layer is frozen, the third is the output: only the first is halved."""
    model = make_model()
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = copy.deepcopy(model)
    attach(model, optimizer, Halve(), inputs=make_batch(0)[0] if given else None)
    train(model, optimizer, range(2))
    assert torch.equal(model[0].weight, before[0].weight / 4)
    for layer, name in ((0, "bias"), (2, "weight"), (4, "weight")):
        assert torch.equal(getattr(model[layer], name), getattr(before[layer], name))


def test_the_output_is_a_reader_that_nobody_reads():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = copy.deepcopy(model)
    attach(model, optimizer, Halve(), readers={"0": "2", "2": "4"})
    train(model, optimizer, range(1))
    assert torch.equal(model[2].weight, before[2].weight / 2)
    assert torch.equal(model[4].weight, before[4].weight)


@pytest.mark.parametrize("kind", [torch.optim.SGD, regularized(torch.optim.SGD)])
def test_the_optimizer_trains_what_a_mitigation_adds(kind):
    """Half of the way in the first step; then a schedule, which a plain optimizer may have had before."""
    model = make_model()
    optimizer = kind(model.parameters(), lr=0.25)
    schedule = partial(torch.optim.lr_scheduler.LambdaLR, optimizer, lambda step: 0.5**step)
    scheduler = schedule() if kind is torch.optim.SGD else None
    attached = attach(model, optimizer, Extra())
    scheduler = scheduler or schedule()
    goals = []
    for count in range(2):
        inputs, _ = make_batch(count)
        goals.append(float(model(inputs).detach().mean()))
        optimizer.zero_grad()
        attached.penalty().backward()
        optimizer.step()
        scheduler.step()
    first = goals[0] / 2  # 0.25 times a gradient of 2 * distance
    assert float(model.extra.detach()) == pytest.approx(first + (goals[1] - first) / 4)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, inputs, mask=None):
        features = torch.relu(self.first(inputs))
        return self.last(features if mask is None else features * mask)


@pytest.mark.parametrize(
    "mitigation", [InFeR(), MITIGATIONS["churn"](), ProximalFeatures(), EffectiveRank()]
)
def test_what_runs_the_model_again_refuses_several_inputs(mitigation):
    """A pass without the mask would be another one, silently."""
    model = Masked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = attach(model, optimizer, mitigation)

    def step():
        outputs = model(torch.ones(4, 6), mask=torch.zeros(4, 1))
        (outputs.sum() + attached.penalty()).backward()
        optimizer.step()

    with pytest.raises(ValueError, match="several tensors"):
        step()


def test_a_loop_is_warned_once_that_it_forgets_a_penalty():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, Parseval(), inputs=make_batch(0)[0])
    with pytest.warns(
        UserWarning, match=r"without the penalties of parseval: add attached\.penalty"
    ):
        train(model, optimizer, range(1))
    train(model, optimizer, range(1))  # warnings are errors
