"""StepGradients keeps the gradients of each optimizer's step, whatever `.grad` holds afterwards."""

import math

import pytest
import torch
from torch import nn

from plasticity.sb3.gradients import StepGradients


class Policy(nn.Module):
    """Policy with two networks and an optimizer each, the critic's in the critic, and a target network."""

    def __init__(self):
        super().__init__()
        self.actor, self.critic, self.target = (nn.Linear(2, 1) for _ in range(3))
        self.optimizer = torch.optim.SGD(self.actor.parameters(), lr=0.1)
        self.critic.optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)


def fill(module, value):
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


def norms(gradients, policy):
    return {layer: float(norm) for layer, norm in gradients.norm(policy).items()}


def test_gradients_of_the_latest_step_of_each_optimizer():
    policy, gradients = Policy(), StepGradients()
    gradients.attach(policy)
    assert norms(gradients, policy) == {"total": 0.0}
    fill(policy.critic, 2.0)
    policy.critic.optimizer.step()
    fill(policy, 5.0)  # the actor's loss, backpropagated through the critic, and the target
    before = [parameter.grad for parameter in policy.parameters()]
    policy.optimizer.step()
    # Three entries each: 5 sqrt(3) and 2 sqrt(3).
    expected = {"actor": 5 * math.sqrt(3), "critic": 2 * math.sqrt(3), "total": math.sqrt(87)}
    assert norms(gradients, policy) == pytest.approx(expected, rel=1e-6)
    after = [parameter.grad for parameter in policy.parameters()]
    assert all(one is other for one, other in zip(before, after, strict=True))
    # The copy is kept when a gradient is overwritten in place or removed.
    for parameter in policy.parameters():
        parameter.grad.zero_()
    policy.zero_grad(set_to_none=True)
    assert norms(gradients, policy) == pytest.approx(expected, rel=1e-6)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_after_detach_further_steps_are_ignored_and_copies_kept():
    policy, gradients = Policy(), StepGradients()
    gradients.attach(policy)
    gradients.attach(policy)  # again, as after interrupted training
    assert len(policy.optimizer._optimizer_step_pre_hooks) == 1
    fill(policy.actor, 1.0)
    policy.optimizer.step()
    gradients.detach()
    fill(policy.actor, 9.0)
    policy.optimizer.step()
    assert norms(gradients, policy)["actor"] == pytest.approx(math.sqrt(3), rel=1e-6)
    assert not policy.optimizer._optimizer_step_pre_hooks


def test_kept_gradients_are_saved_by_name_and_loaded():
    policy, gradients = Policy(), StepGradients()
    gradients.attach(policy)
    fill(policy.critic, 2.0)
    policy.critic.optimizer.step()
    state = gradients.state_dict(dict(policy.named_parameters()))
    assert {name: each.unique().tolist() for name, each in state.items()} == {
        "critic.weight": [2.0],
        "critic.bias": [2.0],
    }
    other, loaded = Policy(), StepGradients()
    loaded.load_state_dict(dict(other.named_parameters()), state)
    assert norms(loaded, other) == norms(gradients, policy)
    fill(other, 7.0)
    with loaded.in_place(other):
        assert other.actor.weight.grad is None  # its optimizer has made no step
        assert other.critic.weight.grad.tolist() == [[2.0, 2.0]]
    assert other.critic.weight.grad.tolist() == [[7.0, 7.0]]
