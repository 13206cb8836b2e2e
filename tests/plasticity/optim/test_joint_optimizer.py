"""A joint optimizer: the steps, groups and states of its parts."""

import copy

import pytest
import torch
from torch import nn

from plasticity.optim.joint_optimizer import JointOptimizer


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    parts = torch.optim.SGD([model.weight], lr=0.1, momentum=0.9), torch.optim.Adam([model.bias])
    return model, JointOptimizer(*parts), parts


def take_steps(model, optimizer, count):
    for step in range(count):
        optimizer.zero_grad()
        model(torch.full((4, 3), 1.0 + step)).square().sum().backward()
        optimizer.step()


def test_it_takes_the_steps_of_its_parts():
    model, joint, _ = make()
    take_steps(model, joint, 3)
    alone, _, parts = make()
    for step in range(3):
        alone.zero_grad()
        alone(torch.full((4, 3), 1.0 + step)).square().sum().backward()
        for each in parts:
            each.step()
    assert torch.equal(model.weight, alone.weight)
    assert torch.equal(model.bias, alone.bias)


def test_groups_and_states_are_those_of_the_parts():
    model, joint, (sgd, adam) = make()
    take_steps(model, joint, 1)
    joint.param_groups[0]["lr"] = 0.5
    assert sgd.param_groups[0]["lr"] == 0.5
    assert joint.state[model.weight] is sgd.state[model.weight]
    assert joint.state[model.bias] is adam.state[model.bias]
    more = nn.Parameter(torch.ones(1))
    joint.add_param_group({"params": [more]})
    assert adam.param_groups[1] is joint.param_groups[2]
    assert joint.param_groups[2]["betas"] == (0.9, 0.999)
    with pytest.raises(ValueError, match="more than one parameter group"):
        JointOptimizer(sgd, torch.optim.SGD([model.weight], lr=0.1))


def test_it_continues_from_a_state():
    model, joint, _ = make()
    take_steps(model, joint, 2)
    other, second, parts = make(1)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(joint.state_dict()))
    assert second.param_groups[1] is parts[1].param_groups[0]
    for own, optimizer in ((model, joint), (other, second)):
        take_steps(own, optimizer, 2)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
    with pytest.raises(ValueError, match="The state has 0 parts, but these are 2"):
        second.load_state_dict(parts[0].state_dict())


def test_a_schedule_acts_on_all_parts():
    model, joint, (sgd, adam) = make()
    schedule = torch.optim.lr_scheduler.StepLR(joint, 1, gamma=0.5)
    take_steps(model, joint, 1)
    schedule.step()
    assert sgd.param_groups[0]["lr"] == 0.05
    assert adam.param_groups[0]["lr"] == 0.0005


def test_closures_and_nothing_are_refused():
    _, joint, _ = make()
    with pytest.raises(ValueError, match="takes no closure"):
        joint.step(lambda: 0.0)
    with pytest.raises(ValueError, match="at least one optimizer"):
        JointOptimizer()
