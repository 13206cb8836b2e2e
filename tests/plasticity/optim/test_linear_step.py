"""Closed form of steps: it is the optimizer's own step, or there is none."""

import pytest
import torch
from torch import nn

from plasticity.optim.linear_step import linear_step
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized

DECAYS = {
    "none": {},
    "weight-decay": {"strength": 0.2},
    "syre": {"strength": 0.2, "sigma": 0.5, "anchor_seed": 3},
    "l2-init": {"strength": 0.2},
}


def make(regularizer="none", base=torch.optim.SGD, **settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    decay = {"regularizer": regularizer, **DECAYS[regularizer]}
    decay |= {key: settings.pop(key) for key in ("anisotropy", "sigma") if key in settings}
    rate = settings.pop("lr", 0.1)
    return model, regularized(base)(
        parameter_groups(model, **{"strength": 0.0, **decay}), lr=rate, **settings
    )


@pytest.mark.parametrize("regularizer", DECAYS)
def test_it_is_the_step_of_the_optimizer(regularizer):
    model, optimizer = make(regularizer)
    with torch.no_grad():
        model.weight.add_(1.0)  # away from the anchors of l2-init
    step = linear_step(optimizer)
    assert step.rate == 0.1
    assert step.strength == (0.0 if regularizer == "none" else 0.2)
    expected = []
    for each in model.parameters():
        each.grad = torch.linspace(-1, 1, each.numel(), dtype=torch.float64).view(each.shape)
        anchor = 0.0 if step.anchors is None else step.anchors[each]
        decay = step.strength * (each.detach() - anchor)
        expected.append(each.detach() - 0.1 * (each.grad + decay))
    optimizer.step()
    for own, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(own.detach(), wanted)
    optimizer.param_groups[0]["lr"] = 0.05
    assert step.rate == 0.05


def wrapped(optimizer):
    torch.optim.lr_scheduler.ConstantLR(optimizer)


def hooked(optimizer):
    optimizer.register_step_post_hook(lambda *_: None)


def split(optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "strength": 0.0})


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"momentum": 0.9}, None),
        ({"maximize": True}, None),
        ({"lr": torch.tensor(0.1)}, None),
        ({"base": torch.optim.Adam}, None),
        ({"regularizer": "syre", "anisotropy": 0.2}, None),
        ({}, wrapped),
        ({}, hooked),
        ({}, split),
    ],
)
def test_other_steps_have_none(settings, change):
    _, optimizer = make(**settings)
    if change is not None:
        assert linear_step(optimizer) is not None
        change(optimizer)
    assert linear_step(optimizer) is None


def test_of_another_optimizer_there_is_none():
    assert linear_step(torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)) is None


def test_an_edited_setting_is_checked():
    _, optimizer = make("syre")
    optimizer.param_groups[0]["strength"] = -1.0
    with pytest.raises(ValueError, match="strength"):
        linear_step(optimizer)
