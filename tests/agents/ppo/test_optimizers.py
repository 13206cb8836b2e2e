"""The optimizers of actor and critic, and an ordinary one behind the interface of a stacked one."""

import copy

import pytest
import torch

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.optimizers import SingleOptimizer, actor_optimizer, critic_optimizer
from plasticity.optim.settings import RegularizerSettings

CONFIG = PPOConfig(hidden=(4,), betas=(0.5, 0.6), epsilon=1e-3)
SYRE = RegularizerSettings("syre", 0.1, 0.5, anchor_seed=3)


def make(*, captured=False):
    policy = ActorCritic(3, 2, CONFIG, generator=torch.Generator().manual_seed(0))
    return policy, SingleOptimizer(actor_optimizer(policy, CONFIG, SYRE), captured=captured)


def test_each_network_has_its_own_parameters_and_log_std_is_not_regularized():
    policy, optimizer = make()
    first, last = optimizer.ordinary.param_groups
    assert first["params"] == list(policy.actor.parameters())
    assert last["params"] == [policy.log_std]
    assert (first["regularizer"], last["regularizer"]) == ("syre", "none")
    (group,) = critic_optimizer(policy.critic, CONFIG, SYRE).param_groups
    assert group["params"] == list(policy.critic.parameters())
    assert (group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3)


def test_a_discrete_policy_has_no_log_std():
    policy = ActorCritic(3, 2, CONFIG, discrete=True)
    assert len(actor_optimizer(policy, CONFIG, SYRE).param_groups) == 1


@pytest.mark.parametrize("captured", [False, True])
def test_a_learning_rate_is_saved_as_a_number_and_keeps_its_place(captured):
    policy, optimizer = make(captured=captured)
    policy.actor.head.bias.grad = torch.ones(2)
    before = policy.actor.head.bias.detach().clone()
    optimizer.set_learning_rate([0.25])
    places = [id(group["lr"]) for group in optimizer.ordinary.param_groups]
    optimizer.step()
    # Adam's first step is the rate times the sign of the gradient.
    moved = before - policy.actor.head.bias
    torch.testing.assert_close(moved, torch.full((2,), 0.25), rtol=2e-2, atol=0.0)
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.25, 0.25]
    _, other = make(captured=captured)
    other.load_state_dict(0, copy.deepcopy(state))
    assert other.state_dict()["param_groups"] == state["param_groups"]
    optimizer.set_learning_rate([0.5])
    if captured:  # a captured step reads the rate where it was
        assert [id(group["lr"]) for group in optimizer.ordinary.param_groups] == places
        assert optimizer.ordinary.param_groups[0]["lr"].item() == 0.5


def test_there_is_one_policy():
    _, optimizer = make()
    for call in (optimizer.freeze, optimizer.state_dict):
        with pytest.raises(IndexError, match="Index 1 is out of range"):
            call(1)
