"""UPGD: gates by hand, noise, and what a gate does not hold back."""

import math

import pytest
import torch
from made_up_mitigations import Clip
from torch import nn

from plasticity.mitigations import UPGD, ReDo
from plasticity.mitigations.attach import attach

RATE = 0.1
QUIET = {"noise": 0.0, "beta": 0.9}


class Weights(nn.Module):
    """Two weights, (2, -1)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))

    def forward(self, gradient):
        return (self.weight * gradient).sum()


def trained(upgd, gradients, base=torch.optim.SGD):
    """Return the weights after steps with these gradients."""
    model = Weights()
    optimizer = base(model.parameters(), lr=RATE)
    attach(model, optimizer, upgd)
    for each in gradients:
        optimizer.zero_grad()
        model(torch.tensor(each)).backward()
        optimizer.step()
    return model.weight.detach()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    # -g w = (2, -1). Global: s = sigmoid(1), sigmoid(-1/2) = 0.7311, 0.3775. Local: by the norm, sqrt(5).
    ("settings", "expected"),
    [
        ({}, (2 + RATE * (1 - 0.7310586), -1 + RATE * (1 - 0.3775407))),
        (
            {"normalization": "local"},
            (2 + RATE * sigmoid(-2 / 5**0.5), -1 + RATE * sigmoid(1 / 5**0.5)),
        ),
        ({"protecting": False}, (2 + RATE, -1 + RATE)),
        # the decay has no gate: less 0.1 * 0.5 * w
        ({"decay": 0.5}, (2.02689414 - 0.1, -0.93775407 + 0.05)),
    ],
)
def test_the_first_step_is_gated_by_the_utility(settings, expected):
    found = trained(UPGD(**QUIET, **settings), [(-1.0, -1.0)])
    torch.testing.assert_close(found, torch.tensor(expected))


def test_gates_are_the_same_in_every_step_with_the_same_weights_and_gradients():
    """Without a rate, weights stay. A step with one then moves them as the first would."""
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, UPGD(noise=0.0))
    for rate in (0.0, 0.0, 0.0, RATE):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        model(torch.tensor([-1.0, -1.0])).backward()
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([2.02689414, -0.93775407]))


def test_utilities_are_a_running_mean():
    # -g w: (2, -1) first, then (0, 0.93775) at w = (2.02689, -0.93775), of which u = 0.9 * 0.1 * the first
    # + 0.1 * the second = (0.18, -0.09 + 0.093775): s = sigmoid(1), sigmoid(0.003775 / 0.18)
    found = trained(UPGD(**QUIET), [(-1.0, -1.0), (0.0, 1.0)])
    second = -0.93775407 - RATE * sigmoid(-0.003775407 / 0.18)
    torch.testing.assert_close(found, torch.tensor([2.02689414, second]))


@pytest.mark.parametrize("normalization", ["global", "local"])
def test_steps_are_half_as_long_without_a_positive_utility(normalization):
    found = trained(UPGD(**QUIET, normalization=normalization), [(0.0, 0.0)])
    assert torch.equal(found, Weights().weight)
    if normalization == "global":  # -g w = (-2, -1)
        found = trained(UPGD(**QUIET), [(1.0, -1.0)])
        torch.testing.assert_close(found, torch.tensor([2 - RATE / 2, -1 + RATE / 2]))


def test_the_moments_of_adam_are_those_of_the_gradients():
    # Adam's first step is the rate, with the sign of the gradient
    found = trained(UPGD(**QUIET), [(-1.0, -1.0)], torch.optim.Adam)
    torch.testing.assert_close(found, torch.tensor([2.02689414, -0.93775407]))


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_only_noise_is_gated_unless_it_protects(base):
    gradients = [(-1.0, 0.5), (0.3, 0.2), (1.0, 2.0)]
    model = Weights()
    optimizer = base(model.parameters(), lr=RATE)
    for each in gradients:
        optimizer.zero_grad()
        model(torch.tensor(each)).backward()
        optimizer.step()
    found = trained(UPGD(noise=0.0, protecting=False), gradients, base)
    assert torch.equal(found, model.weight)


def test_noise_is_gated_and_scaled_by_the_rate():
    model = nn.Linear(100, 100, bias=False)
    with torch.no_grad():
        model.weight.zero_()  # no utility: gates of 1/2
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    attach(model, optimizer, UPGD(noise=0.3), seed=1)
    random = torch.get_rng_state()
    (model(torch.zeros(1, 100)) * 0).sum().backward()
    optimizer.step()
    # 10,000 draws: the deviation has a standard error of 0.7 percent
    assert model.weight.std().item() == pytest.approx(RATE * 0.3 / 2, rel=0.03)
    assert abs(model.weight.mean().item()) < 5 * RATE * 0.3 / 2 / 100
    assert torch.equal(torch.get_rng_state(), random)


def test_parameters_that_are_not_trained_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 2))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([*model[2].parameters(), model[3].weight], lr=RATE)
    attach(model, optimizer, UPGD())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {"2.bias", "3.weight"}


def test_a_projection_acts_on_what_the_gates_have_left():
    gradients = [(-50.0, 50.0)]
    model = Weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    attach(model, optimizer, Clip(every=1, bound=0.5), UPGD(**QUIET))  # in any order
    model(torch.tensor(gradients[0])).backward()
    optimizer.step()
    assert model.weight.tolist() == [0.5, -0.5]


def test_a_unit_that_is_reset_has_no_utility():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([9.0, -100.0, 9.0, 9.0]))  # the second is silent
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    attached = attach(model, optimizer, ReDo(every=2, tau=0.0), UPGD())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(50, 3)).square().sum().backward()
        optimizer.step()
    assert attached.take_counts()["reset_units/0"] == 1
    state = attached.state_dict()["mitigations"]["upgd"]["state"]
    assert (state["utility/2.weight"] == 0).all(0).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta", 1.0),
        ("noise", -0.1),
        ("decay", -1),
        ("normalization", "layer"),
        ("protecting", 1),
    ],
)
def test_a_wrong_setting_is_refused(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        UPGD(**{field: value})


def test_attached_as_trained(attached_as_trained):
    attached_as_trained(UPGD())
    attached_as_trained(UPGD(normalization="local"), optimizer="adam", learning_rate=0.01)


@pytest.mark.parametrize("normalization", ["global", "local"])
def test_stacked_as_alone(stacked_as_alone, normalization):
    same = {"normalization": normalization}
    stacked_as_alone(
        (UPGD(noise=0.1, beta=0.9, **same),), (UPGD(noise=0.01, beta=0.99, decay=0.1, **same),)
    )


def test_an_agent_stacked_as_alone(ppo_stacked_as_alone):
    ppo_stacked_as_alone((UPGD(noise=0.1, beta=0.9),), (UPGD(noise=0.2, beta=0.99, decay=0.1),))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_run_continues_exactly(continues_exactly, stacked):
    continues_exactly((UPGD(beta=0.9),), stacked=stacked)


def test_an_agent_continues_exactly(ppo_continues_exactly):
    ppo_continues_exactly((UPGD(beta=0.9),))


def test_utilities_are_kept_in_single_precision_at_least():
    """In half precision, a share of 1e-4 of a change would be lost."""
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    attached = attach(layer, optimizer, UPGD(beta=0.9999, noise=0.0))
    for _ in range(100):
        layer.weight.grad = -torch.ones_like(layer.weight)
        optimizer.step()
        layer.weight.grad = None
    state = attached.state_dict()["mitigations"]["upgd"]["state"]
    assert state["utility/weight"].item() == pytest.approx(1 - 0.9999**100, rel=1e-4)
