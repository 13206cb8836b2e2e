"""TRAC against the published update in float64, written with scipy."""

import math

import numpy as np
import pytest
import torch
from made_up_mitigations import Clip
from scipy import special
from torch import nn

from plasticity.mitigations import TRAC, ReDo
from plasticity.mitigations.attach import attach
from plasticity.mitigations.trac import DISCOUNTS, erfi

TARGET = (5.0, 3.0)


class Point(nn.Module):
    """Two weights, and half their squared distance from a target."""

    def __init__(self, start=(1.0, -2.0), dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=dtype))

    def forward(self):
        return (self.weight - self.weight.new_tensor(TARGET)).square().sum() / 2


def take_steps(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()


def attached(model, *others, rate=0.1, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    handle = attach(model, optimizer, *others, TRAC(**settings))
    return optimizer, lambda: handle.state_dict()["mitigations"]["trac"]["state"]


def published(start, rate, steps):
    """Return the weights and S after every step of TRAC over plain SGD, with the displacement kept."""
    first = np.array(start)
    weights, displacement, discounts = first.copy(), np.zeros(2), np.array(DISCOUNTS)
    variance, total = np.zeros(6), np.full(6, 1e-8)
    rows = []
    for _ in range(steps):
        gradient = weights - np.array(TARGET)
        product = displacement @ gradient
        displacement = displacement - rate * gradient
        variance = discounts**2 * variance + product**2
        total = discounts * total - product
        arguments = total / (math.sqrt(2) * np.sqrt(variance) + 1e-8)
        scale = (1e-8 / special.erfi(1 / math.sqrt(2)) * special.erfi(arguments)).sum()
        weights = first + max(scale, 0.0) * displacement
        rows.append((*weights, max(scale, 0.0)))
    return np.array(rows)


@pytest.mark.parametrize("start", [(1.0, -2.0), (0.0, 0.0)])
def test_weights_and_scale_are_the_published_ones(start):
    rows = published(start, 0.1, 100)
    model = Point(start)
    optimizer, state = attached(model)
    for row in rows:
        take_steps(model, optimizer, 1)
        found = [*model.weight.tolist(), state()["scale"].item()]
        np.testing.assert_allclose(found, row, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(model.weight.tolist(), TARGET, atol=1e-3)  # it has arrived


def test_the_scale_at_first_is_10_starts():
    # h = 0: the sum of 1e-8 * erfi(β) / erfi(1 / √2) over the six discounts
    model = Point()
    optimizer, state = attached(model)
    take_steps(model, optimizer, 1)
    assert state()["scale"].item() == pytest.approx(1.0058e-7, rel=1e-4)


def test_it_moves_in_single_precision_where_the_first_steps_are_rounded_away():
    model = Point(dtype=torch.float32)
    optimizer, state = attached(model)
    take_steps(model, optimizer, 1)
    assert model.weight.tolist() == [1, -2]  # 4e-8 are lost in it
    assert state()["displacement/weight"].tolist() == pytest.approx([0.4, 0.5])
    take_steps(model, optimizer, 99)
    torch.testing.assert_close(model.weight.detach(), torch.tensor(TARGET), rtol=0, atol=1e-2)


def test_weights_that_get_no_gradient_stay():
    model = Point(TARGET)
    optimizer, _ = attached(model, rate=1.0)
    take_steps(model, optimizer, 5)  # gradients of 0
    assert model.weight.tolist() == list(TARGET)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, TRAC(start=0.01))
    for frozen in (False, True, True):
        model[0].requires_grad_(not frozen)
        before = [each.weight.detach().clone() for each in model]
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        moved = [not torch.equal(own.weight, each) for own, each in zip(model, before, strict=True)]
        assert moved == [not frozen, True]


def test_the_scale_is_never_negative():
    """Steps up the slope, away from the target: h is always above 0."""
    model = Point()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    handle = attach(model, optimizer, TRAC())
    take_steps(model, optimizer, 30)
    assert handle.state_dict()["mitigations"]["trac"]["state"]["scale"] == 0
    assert model.weight.tolist() == [1, -2]


def test_a_change_between_steps_moves_the_reference():
    model = Point()
    optimizer, state = attached(model)
    take_steps(model, optimizer, 60)
    before = {name: each.clone() for name, each in state().items()}
    with torch.no_grad():
        model.weight.add_(torch.tensor([0.5, -0.25]))
    moved = model.weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    take_steps(model, optimizer, 1)
    after = state()
    torch.testing.assert_close(
        after["reference/weight"] - before["reference/weight"],
        torch.tensor([0.5, -0.25], dtype=torch.float64),
    )
    change = (after["scale"] - before["scale"]) * before["displacement/weight"]
    torch.testing.assert_close(model.weight.detach(), moved + change)


def test_an_untouched_reference_stays_to_the_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    first = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    handle = attach(model, optimizer, TRAC())
    for _ in range(100):
        optimizer.zero_grad()
        model(torch.randn(20, 5)).square().mean().backward()
        optimizer.step()
    state = handle.state_dict()["mitigations"]["trac"]["state"]
    for name, each in model.named_parameters():
        assert torch.equal(state[f"reference/{name}"], first[name])
        placed = state["scale"] * state[f"displacement/{name}"] + first[name]
        assert torch.equal(each, placed)
    assert state["scale"] > 0.01


def test_a_projection_holds():
    model = Point()
    optimizer, _ = attached(model, Clip(every=1, bound=2.5))  # in any order
    take_steps(model, optimizer, 100)
    torch.testing.assert_close(model.weight.detach(), torch.full((2,), 2.5, dtype=torch.float64))


def test_a_unit_that_is_reset_has_no_displacement():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([9.0, -100.0, 9.0, 9.0]))  # the second is silent
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, weight_decay=0.1)
    handle = attach(model, optimizer, ReDo(every=2, tau=0.0), TRAC())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(50, 3)).square().sum().backward()
        optimizer.step()
    state = handle.state_dict()["mitigations"]["trac"]["state"]
    assert (state["displacement/2.weight"] == 0).all(0).tolist() == [False, True, False, False]
    assert (model[2].weight == 0).all(0).tolist() == [False, True, False, False]
    optimizer.zero_grad()
    model(torch.randn(50, 3)).square().sum().backward()
    optimizer.step()
    assert model[2].weight[:, 1].abs().max() < 1e-6  # the reset was not undone


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_erfi_is_scipys(dtype, tolerance):
    numbers = np.concatenate([np.linspace(-9, 9, 401), 10.0 ** np.arange(-12, 0)])
    found = erfi(torch.tensor(numbers, dtype=dtype))
    expected = special.erfi(torch.tensor(numbers, dtype=dtype).double().numpy())
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize(("field", "value"), [("start", 0), ("start", "a"), ("epsilon", -1.0)])
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        TRAC(**{field: value})


def test_attached_as_trained(attached_as_trained):
    attached_as_trained(TRAC(start=1e-3), optimizer="adam", learning_rate=0.01)


def test_stacked_as_alone(stacked_as_alone):
    stacked_as_alone((TRAC(),), (TRAC(start=1e-4, epsilon=1e-6),))


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    ppo_stacked_as_alone((TRAC(start=1e-5),), (TRAC(epsilon=1e-6),))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((TRAC(start=1e-4),), stacked=stacked)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((TRAC(start=1e-3),))
