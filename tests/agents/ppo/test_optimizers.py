"""The optimizers of actor and critic."""

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.optimizers import actor_optimizer, critic_optimizer
from plasticity.optim.settings import RegularizerSettings

CONFIG = PPOConfig(hidden=(4,), betas=(0.5, 0.6), epsilon=1e-3)
SYRE = RegularizerSettings("syre", 0.1, 0.5, anchor_seed=3)


def test_each_network_has_its_own_parameters_and_log_std_is_not_regularized():
    policy = ActorCritic(3, 2, CONFIG)
    first, last = actor_optimizer(policy, CONFIG, SYRE).param_groups
    assert first["params"] == list(policy.actor.parameters())
    assert last["params"] == [policy.log_std]
    assert (first["regularizer"], last["regularizer"]) == ("syre", "none")
    (group,) = critic_optimizer(policy.critic, CONFIG, SYRE).param_groups
    assert group["params"] == list(policy.critic.parameters())
    assert (group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3)


def test_a_discrete_policy_has_no_log_std():
    policy = ActorCritic(3, 2, CONFIG, discrete=True)
    assert len(actor_optimizer(policy, CONFIG, SYRE).param_groups) == 1
