"""A whole update of replicas against the ordinary halves, on batches in which much is clipped."""

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

REPLICAS, ENVS, STEPS = 3, 4, 16
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
        for seed in range(REPLICAS)
    ]
    for seed, policy in enumerate(policies):
        policy.log_std.data.copy_(torch.tensor([-0.5, 0.0, 0.3]) - seed / 10)
    optimizers = [
        (actor_optimizer(policy, config, SYRE), critic_optimizer(policy.critic, config, DECAY))
        for policy in policies
    ]
    return config, policies, optimizers


def draw(seed=0):
    """For all environments of all replicas: observations, actions, and what an update is given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(STEPS, REPLICAS * ENVS, *shape, generator=generator, dtype=torch.float64)

    return normal(5), normal(3), normal() - 4, normal(), normal(), normal()


def of_one(rollout, replica):
    return [
        part[:, replica * ENVS : (replica + 1) * ENVS].flatten(0, 1).clone() for part in rollout
    ]


def stacked(config, policies, optimizers, rollout):
    observations, actions, log_probabilities, advantages, values, returns = rollout
    replicas = StackedNetworks(policies)
    parameters = replicas.parameters
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
    return replicas, update


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_advantages": "none"},
        {"normalize_advantages": "minibatch", "entropy_coefficient": 0.1},
        {"normalize_advantages": "none", "value_clip_range": 0.5, "value_coefficient": 0.3},
        {"normalize_advantages": "none", "max_gradient_norm": 0.1, "target_kl": 2.0},
    ],
)
def test_each_replica_is_updated_as_alone(settings):
    config, policies, optimizers = make(**settings)
    rollout = draw()
    generators = [torch.Generator().manual_seed(10 + replica) for replica in range(REPLICAS)]
    data_orders = torch.stack(
        [torch.stack([torch.randperm(64, generator=g) for _ in range(2)]) for g in generators]
    )
    replicas, update = stacked(config, policies, optimizers, rollout)
    update.run(data_orders)
    found = update.statistics()
    for replica, policy in enumerate(policies):
        observations, actions, old, advantages, values, returns = of_one(rollout, replica)
        actor = ActorUpdate(policy, config, optimizers[replica][0])
        critic = CriticUpdate(policy.critic, config, optimizers[replica][1])
        actor.begin(ActorBatch(observations, actions, old, advantages), config.learning_rate)
        critic.begin(CriticBatch(observations, values, returns), config.learning_rate)
        run_coupled(actor, critic, list(data_orders[replica]), config)
        for name, expected in policy.state_dict().items():
            torch.testing.assert_close(replicas.parameters[name][replica], expected, **CLOSE)
        for name, expected in (critic.statistics() | actor.statistics()).items():
            torch.testing.assert_close(found[name][replica], expected, **CLOSE)
    assert (found["clip_fraction"] > 0.3).all()


def test_a_replica_stops_at_its_own_target_and_the_others_go_on():
    config, policies, optimizers = make(normalize_advantages="none", target_kl=2.0)
    rollout = draw()
    with torch.no_grad():  # the policy that acted, but for the second replica
        for replica in (0, 2):
            observations, actions, *_ = of_one(rollout, replica)
            policy = policies[replica]
            own = distributions.Normal(policy.actor(observations), policy.log_std.exp())
            found = own.log_prob(actions).sum(-1).view(STEPS, ENVS)
            rollout[2][:, replica * ENVS : (replica + 1) * ENVS] = found
        rollout[2][:, ENVS : 2 * ENVS] -= 20
    replicas, update = stacked(config, policies, optimizers, rollout)
    before = replicas.state_dict(1)
    data_orders = torch.arange(64).expand(REPLICAS, 2, 64).contiguous()
    update.run(data_orders)
    assert update._done.tolist() == [8, 1, 8]  # of two epochs of four
    for name, weight in replicas.state_dict(1).items():
        assert torch.equal(weight, before[name])
    assert not torch.equal(replicas.parameters["log_std"][0], policies[0].log_std)
    statistics = update.statistics()
    assert all(numbers.isfinite().all() for numbers in statistics.values())


def test_log_probabilities_and_entropies():
    _, policies, _ = make()
    _, actions, *_ = draw()
    means = draw(1)[1].unflatten(1, (REPLICAS, ENVS))
    actions = actions.unflatten(1, (REPLICAS, ENVS))
    log_std = torch.stack([policy.log_std.detach() for policy in policies])
    normal = distributions.Normal(means, log_std.exp().unsqueeze(1))
    found = stacked_log_probabilities(means, log_std, actions)
    torch.testing.assert_close(found, normal.log_prob(actions).sum(-1))
    torch.testing.assert_close(stacked_entropies(log_std), normal.entropy().sum(-1)[0, :, 0])
