"""Steps without bookkeeping: bit for bit those of the optimizer."""

import copy

import pytest
import torch
from torch import nn

from plasticity.optim.direct_step import direct_step
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized

BASES = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "maximize": (torch.optim.SGD, {"momentum": 0.5, "maximize": True}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.9)}),
    "adamw": (torch.optim.AdamW, {}),
}
DECAYS = {
    "none": {},
    "weight-decay": {"strength": 0.02},
    "syre": {"strength": 0.02, "sigma": 0.5, "anchor_seed": 3},
    "small-syre": {"regularizer": "syre", "strength": 1e-6, "sigma": 0.5, "anchor_seed": 3},
    "l2-init": {"strength": 0.02},
}


def make(base="sgd", decay="none", **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    kind, settings = BASES[base]
    groups = parameter_groups(model, **{"regularizer": decay, "strength": 0.0, **DECAYS[decay]})
    return model, regularized(kind)(groups, lr=0.05, fused=True, **settings, **more)


def backward(model, seed):
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(inputs).square().sum().backward()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("decay", DECAYS)
def test_steps_are_those_of_the_optimizer(base, decay):
    (one, optimizer), (other, expected) = make(base, decay), make(base, decay)
    step = None
    for seed in range(6):
        for model in (one, other):
            backward(model, seed)
        if seed == 4:  # a schedule
            for each in (optimizer, expected):
                each.param_groups[0]["lr"] = 0.01
        if step is None:
            optimizer.step()
            step = direct_step(optimizer)
            assert step is not None
        else:
            step()
        expected.step()
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert torch.equal(mine.grad, theirs.grad)
    # the optimizer owns the state, and goes on from it
    mine, theirs = optimizer.state_dict(), expected.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        for name, each in state.items():
            assert each is None or torch.equal(mine["state"][index][name], each)


def test_a_gradient_that_nobody_reads_may_keep_the_decay():
    (one, optimizer), (other, expected) = make("momentum", "syre"), make("momentum", "syre")
    for model, each in ((one, optimizer), (other, expected)):
        backward(model, 0)
        each.step()
        backward(model, 1)
    direct_step(optimizer, keep_gradients=False)()
    expected.step()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert not torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["missing", "expanded"])
def test_another_gradient_is_left_to_the_optimizer(kind):
    models = [make("momentum", "syre") for _ in range(2)]
    for model, optimizer in models:
        backward(model, 0)
        optimizer.step()
        backward(model, 1)
    step = direct_step(models[0][1])
    for model, _ in models:
        model[0].bias.grad = None if kind == "missing" else torch.ones(1).expand(4)
    step()
    models[1][1].step()
    for mine, theirs in zip(models[0][0].parameters(), models[1][0].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_there_is_none_before_the_first_step():
    model, optimizer = make("momentum")
    backward(model, 0)
    assert direct_step(optimizer) is None
    optimizer.step()
    assert direct_step(optimizer) is not None


@pytest.mark.parametrize("change", ["foreach", "hook", "rate", "groups", "plain", "anisotropy"])
def test_other_optimizers_have_none(change):
    model, optimizer = make("sgd", "syre")
    backward(model, 0)
    assert direct_step(optimizer) is not None
    group = optimizer.param_groups[0]
    if change == "foreach":
        group["fused"] = False
    elif change == "hook":
        optimizer.register_step_pre_hook(lambda *_: None)
    elif change == "rate":
        group["lr"] = torch.tensor(0.1)
    elif change == "groups":
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "strength": 0.0})
    elif change == "anisotropy":
        group["anisotropy"] = 0.1
    else:
        optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1, fused=True)
    assert direct_step(optimizer) is None
