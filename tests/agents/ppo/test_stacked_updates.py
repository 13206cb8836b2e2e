"""A whole stacked update compared with the ordinary halves, on batches with much clipping."""

import pytest
import torch
from torch import distributions

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.stacked_gradients import StackedDense
from plasticity.agents.ppo.stacked_updates import (
    StackedBatch,
    StackedUpdate,
    stacked_entropies,
    stacked_log_probabilities,
)
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    run_coupled,
)
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks

NUM_STACKED, ENVS, STEPS = 3, 4, 16
SYRE = RegularizerSettings("syre", 1e-2, 0.3, anchor_seed=1)
DECAY = RegularizerSettings("weight-decay", 1e-2, anchor_seed=2)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def make(**settings):
    config = PPOConfig(
        hidden=(8, 7),
        activation="tanh",
        rollout_steps=ENVS * STEPS,
        minibatch_size=16,
        epochs=2,
        **settings,
    )
    policies = [
        ActorCritic(5, 3, config, generator=torch.Generator().manual_seed(seed)).double()
        for seed in range(NUM_STACKED)
    ]
    for seed, policy in enumerate(policies):
        policy.log_std.data.copy_(torch.tensor([-0.5, 0.0, 0.3]) - seed / 10)
    optimizers = [
        (actor_optimizer(policy, config, SYRE), critic_optimizer(policy.critic, config, DECAY))
        for policy in policies
    ]
    return config, policies, optimizers


def draw(seed=0):
    """Draw observations, actions and the other inputs of an update for all environments of all agents."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(
            STEPS, NUM_STACKED * ENVS, *shape, generator=generator, dtype=torch.float64
        )

    return normal(5), normal(3), normal() - 4, normal(), normal(), normal()


def of_one(rollout, index):
    return [part[:, index * ENVS : (index + 1) * ENVS].flatten(0, 1).clone() for part in rollout]


def stacked(config, policies, optimizers, rollout):
    observations, actions, log_probabilities, advantages, values, returns = rollout
    networks = StackedNetworks(policies)
    parameters = networks.parameters
    actor, critic = (StackedDense(parameters, name, "tanh") for name in ("actor.", "critic."))
    batch = StackedBatch(observations.flatten(0, 1), actions.flatten(0, 1))
    batch.log_probabilities.copy_(log_probabilities.flatten())
    batch.advantages.copy_(advantages.flatten())
    batch.values.copy_(values.flatten())
    batch.returns.copy_(returns.flatten())
    update = StackedUpdate(
        actor,
        parameters["log_std"],
        critic,
        config,
        StackedOptimizer([a for a, _ in optimizers], [*actor.parameters, parameters["log_std"]]),
        StackedOptimizer([c for _, c in optimizers], critic.parameters),
        batch,
        ENVS,
    )
    return networks, update


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_advantages": "none"},
        {"normalize_advantages": "minibatch", "entropy_coefficient": 0.1},
        {"normalize_advantages": "none", "value_clip_range": 0.5, "value_coefficient": 0.3},
        {"normalize_advantages": "none", "max_gradient_norm": 0.1, "target_kl": 2.0},
    ],
)
def test_each_agent_is_updated_like_a_separate_one(settings):
    config, policies, optimizers = make(**settings)
    rollout = draw()
    generators = [torch.Generator().manual_seed(10 + index) for index in range(NUM_STACKED)]
    data_orders = torch.stack(
        [torch.stack([torch.randperm(64, generator=g) for _ in range(2)]) for g in generators]
    )
    networks, update = stacked(config, policies, optimizers, rollout)
    update.run(data_orders)
    found = update.statistics()
    for index, policy in enumerate(policies):
        observations, actions, old, advantages, values, returns = of_one(rollout, index)
        actor = ActorUpdate(policy, config, optimizers[index][0])
        critic = CriticUpdate(policy.critic, config, optimizers[index][1])
        actor.begin(ActorBatch(observations, actions, old, advantages), config.learning_rate)
        critic.begin(CriticBatch(observations, values, returns), config.learning_rate)
        run_coupled(actor, critic, list(data_orders[index]), config)
        for name, expected in policy.state_dict().items():
            torch.testing.assert_close(networks.parameters[name][index], expected, **CLOSE)
        for name, expected in (critic.statistics() | actor.statistics()).items():
            torch.testing.assert_close(found[name][index], expected, **CLOSE)
    assert (found["clip_fraction"] > 0.3).all()


def test_an_agent_stops_at_its_own_target_kl_and_the_others_continue():
    config, policies, optimizers = make(normalize_advantages="none", target_kl=2.0)
    rollout = draw()
    with torch.no_grad():  # the policies that acted, except for the second agent
        for index in (0, 2):
            observations, actions, *_ = of_one(rollout, index)
            policy = policies[index]
            own = distributions.Normal(policy.actor(observations), policy.log_std.exp())
            found = own.log_prob(actions).sum(-1).view(STEPS, ENVS)
            rollout[2][:, index * ENVS : (index + 1) * ENVS] = found
        rollout[2][:, ENVS : 2 * ENVS] -= 20
    networks, update = stacked(config, policies, optimizers, rollout)
    before = networks.state_dict(1)
    data_orders = torch.arange(64).expand(NUM_STACKED, 2, 64).contiguous()
    update.run(data_orders)
    assert update._done.tolist() == [8, 1, 8]  # two epochs of four minibatches
    for name, weight in networks.state_dict(1).items():
        assert torch.equal(weight, before[name])
    assert not torch.equal(networks.parameters["log_std"][0], policies[0].log_std)
    statistics = update.statistics()
    assert all(numbers.isfinite().all() for numbers in statistics.values())


def test_log_probabilities_and_entropies():
    _, policies, _ = make()
    _, actions, *_ = draw()
    means = draw(1)[1].unflatten(1, (NUM_STACKED, ENVS))
    actions = actions.unflatten(1, (NUM_STACKED, ENVS))
    log_std = torch.stack([policy.log_std.detach() for policy in policies])
    normal = distributions.Normal(means, log_std.exp().unsqueeze(1))
    found = stacked_log_probabilities(means, log_std, actions)
    torch.testing.assert_close(found, normal.log_prob(actions).sum(-1))
    torch.testing.assert_close(stacked_entropies(log_std), normal.entropy().sum(-1)[0, :, 0])
