"""The explicit gradients compared with autograd and torch.distributions, and the halves' bookkeeping."""

import math

import pytest
import torch
from torch import distributions

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    flushed_denormals,
    gaussian_entropy,
    gaussian_log_probability,
    run_coupled,
    run_half,
)
from plasticity.optim.settings import RegularizerSettings

SMALL = {"hidden": (8, 7), "rollout_steps": 64, "minibatch_size": 16, "epochs": 2}
NONE = RegularizerSettings()


def make(discrete=False, actor=NONE, critic=NONE, **settings):
    config = PPOConfig(**(SMALL | settings))
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(5, 3, config, discrete=discrete, generator=generator).double()
    if not discrete:
        policy.log_std.data.copy_(torch.tensor([-0.5, 0.0, 0.3]))
    return (
        policy,
        config,
        ActorUpdate(policy, config, actor_optimizer(policy, config, actor)),
        CriticUpdate(policy.critic, config, critic_optimizer(policy.critic, config, critic)),
    )


def distribution(policy, observations):
    outputs = policy.actor(observations)
    if policy.log_std is None:
        return distributions.Categorical(logits=outputs)
    return distributions.Independent(distributions.Normal(outputs, policy.log_std.exp()), 1)


@torch.no_grad()
def make_batches(policy, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    observations = normal(64, 5)
    if policy.log_std is None:
        actions = torch.randint(3, (64,), generator=generator)
    else:
        actions = policy.actor(observations) + normal(64, 3) * policy.log_std.exp()
    # old probabilities that differ from the current ones, so that many ratios are clipped on both sides
    old = distribution(policy, observations).log_prob(actions) + 0.3 * normal(64)
    values = policy.critic(observations).squeeze(1) + 0.2 * normal(64)
    actor = ActorBatch(observations, actions, old, normal(64))
    return actor, CriticBatch(observations, values, values + normal(64))


def reference_policy_loss(policy, config, batch, rows, advantages):
    """Return the loss as in the paper, for autograd."""
    found = distribution(policy, batch.observations[rows])
    ratios = (found.log_prob(batch.actions[rows]) - batch.log_probabilities[rows]).exp()
    clipped = ratios.clamp(1 - config.clip_range, 1 + config.clip_range)
    surrogate = torch.min(ratios * advantages, clipped * advantages).mean()
    return -surrogate - config.entropy_coefficient * found.entropy().mean()


def assert_gradients(loss, parameters):
    parameters = list(parameters)
    for parameter, wanted in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.1])
@pytest.mark.parametrize("normalize", ["rollout", "minibatch", "none"])
def test_actor_gradient_equals_autograd(discrete, entropy_coefficient, normalize):
    policy, config, update, _ = make(
        discrete, entropy_coefficient=entropy_coefficient, normalize_advantages=normalize
    )
    batch, _ = make_batches(policy)
    advantages = batch.advantages
    if normalize == "rollout":
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    data_order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    update.begin(batch, 1e-3)
    update.begin_epoch(data_order)
    for index in (0, 1):
        update.compute_gradients(index)
        rows = data_order[16 * index : 16 * index + 16]
        chosen = advantages[rows]
        if normalize == "minibatch":
            chosen = (chosen - chosen.mean()) / (chosen.std() + 1e-8)
        loss = reference_policy_loss(policy, config, batch, rows, chosen)
        parameters = list(policy.actor.parameters())
        parameters += [] if discrete else [policy.log_std]
        assert_gradients(loss, parameters)


@pytest.mark.parametrize("value_clip_range", [None, 0.2])
def test_critic_gradient_equals_autograd(value_clip_range):
    policy, _, _, update = make(value_clip_range=value_clip_range, value_coefficient=0.7)
    _, batch = make_batches(policy)
    data_order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    update.begin(batch, 1e-3)
    update.begin_epoch(data_order)
    update.compute_gradients(1)
    rows = data_order[16:32]
    values, old = policy.critic(batch.observations[rows]).squeeze(1), batch.values[rows]
    if value_clip_range is not None:
        assert 0 < ((values - old).abs() > value_clip_range).sum() < 16
        values = old + (values - old).clamp(-value_clip_range, value_clip_range)
    loss = 0.7 * (values - batch.returns[rows]).square().mean()
    assert_gradients(loss, policy.critic.parameters())


def test_gaussian_equals_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    means, actions = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64)
    log_std = torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64)
    expected = distributions.Independent(distributions.Normal(means, log_std.exp()), 1)
    found = gaussian_log_probability(means, log_std, actions)
    torch.testing.assert_close(found, expected.log_prob(actions))
    torch.testing.assert_close(gaussian_entropy(log_std), expected.entropy()[0, 0])


def data_orders(epochs=2):
    generator = torch.Generator().manual_seed(2)
    return [torch.randperm(64, generator=generator) for _ in range(epochs)]


def test_statistics():
    policy, config, actor, critic = make(normalize_advantages="none")
    batch, critic_batch = make_batches(policy)
    actor.begin(batch, 1e-2)
    critic.begin(critic_batch, 1e-2)
    log_ratios, errors, advantages = [], [], []
    for data_order in data_orders():
        actor.begin_epoch(data_order)
        critic.begin_epoch(data_order)
        for index, rows in enumerate(data_order.split(16)):
            with torch.no_grad():
                found = distribution(policy, batch.observations[rows])
                log_ratio = found.log_prob(batch.actions[rows]) - batch.log_probabilities[rows]
                values = policy.critic(batch.observations[rows]).squeeze(1)
            log_ratios.append(log_ratio)
            errors.append(values - critic_batch.returns[rows])
            advantages.append(batch.advantages[rows])
            actor.compute_gradients(index)
            critic.compute_gradients(index)
            kl = (log_ratio.exp() - 1 - log_ratio).mean()
            torch.testing.assert_close(actor.approximate_kl(), kl)
            actor.optimizer.step()
            critic.optimizer.step()
    ratios, advantages = torch.cat(log_ratios).exp(), torch.cat(advantages)
    loss = -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
    last = torch.cat(log_ratios[4:])  # the second of 2 epochs of 4 minibatches
    found = actor.statistics() | critic.statistics()
    torch.testing.assert_close(found["policy_loss"], loss)
    clipped = ((ratios - 1).abs() > config.clip_range).double().mean()
    torch.testing.assert_close(found["clip_fraction"], clipped)
    assert 0 < clipped < 1
    torch.testing.assert_close(found["approximate_kl"], (last.exp() - 1 - last).mean())
    torch.testing.assert_close(found["value_loss"], torch.cat(errors).square().mean())


def test_a_half_equals_an_explicit_loop():
    """With a regularizer, the weights are the same as with autograd and torch's Adam."""
    syre = RegularizerSettings("syre", 0.1, 0.5, anchor_seed=4)
    policy, config, update, _ = make(actor=syre, normalize_advantages="none", betas=(0.8, 0.9))
    twin, _, twin_update, _ = make(actor=syre, normalize_advantages="none")
    batch, _ = make_batches(policy)
    update.begin(batch, 1e-2)
    run_half(update, data_orders(), config.num_minibatches)

    anchors = [twin_update.optimizer.anchor(p) for p in twin.actor.parameters()]
    assert twin_update.optimizer.anchor(twin.log_std) is None
    parameters = [*twin.actor.parameters(), twin.log_std]
    optimizer = torch.optim.Adam(parameters, lr=1e-2, betas=(0.8, 0.9))
    for data_order in data_orders():
        for rows in data_order.split(16):
            loss = reference_policy_loss(twin, config, batch, rows, batch.advantages[rows])
            for parameter, anchor in zip(twin.actor.parameters(), anchors, strict=True):
                loss = loss + 0.1 / 2 * (parameter - anchor).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(policy.get_parameter(name), parameter)


def test_coupled_without_a_limit_equals_separate_halves():
    separate, coupled = make(), make(max_gradient_norm=1e9, target_kl=1e9)
    for policy, config, actor, critic in (separate, coupled):
        actor_batch, critic_batch = make_batches(policy)
        actor.begin(actor_batch, 1e-2)
        critic.begin(critic_batch, 1e-2)
        if config.target_kl is None:
            run_half(actor, data_orders(), 4)
            run_half(critic, data_orders(), 4)
        else:
            run_coupled(actor, critic, data_orders(), config)
    for name, parameter in separate[0].named_parameters():
        torch.testing.assert_close(parameter, coupled[0].get_parameter(name), rtol=0, atol=0)


def test_gradients_are_clipped_by_their_joint_norm():
    policy, config, actor, critic = make(max_gradient_norm=0.01, epochs=1)
    actor_batch, critic_batch = make_batches(policy)
    actor.begin(actor_batch, 1e-2)
    critic.begin(critic_batch, 1e-2)
    run_coupled(actor, critic, data_orders(1), config)
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in policy.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-4)


def test_the_target_kl_stops_before_the_step_beyond_it():
    policy, config, actor, critic = make(target_kl=1e-6)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    actor_batch, critic_batch = make_batches(policy)
    actor.begin(actor_batch, 1e-2)
    critic.begin(critic_batch, 1e-2)
    run_coupled(actor, critic, data_orders(), config)
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name])
    # the statistics cover the one minibatch that was evaluated
    found = distribution(policy, actor_batch.observations[data_orders()[0][:16]])
    log_ratio = (
        found.log_prob(actor_batch.actions[data_orders()[0][:16]])
        - actor_batch.log_probabilities[data_orders()[0][:16]]
    )
    expected = (log_ratio.exp() - 1 - log_ratio).mean()
    torch.testing.assert_close(actor.statistics()["approximate_kl"], expected)


def test_the_learning_rate_is_set_for_each_rollout():
    policy, _, actor, critic = make()
    actor_batch, critic_batch = make_batches(policy)
    before = [p.detach().clone() for p in policy.parameters()]
    actor.begin(actor_batch, 0.0)
    critic.begin(critic_batch, 0.0)
    run_half(actor, data_orders(), 4)
    run_half(critic, data_orders(), 4)
    for old, new in zip(before, policy.parameters(), strict=True):
        assert torch.equal(old, new)


def test_flushed_denormals_ends_with_its_block():
    tiny = torch.full((), 1e-40)
    assert tiny * 1.0 != 0
    with flushed_denormals():
        assert tiny * 1.0 == 0
        with flushed_denormals():
            pass
        assert tiny * 1.0 == 0
    assert tiny * 1.0 != 0


def test_moments_of_a_dead_unit_do_not_decay_to_denormals():
    policy, _, update, _ = make()
    policy.float()
    update = ActorUpdate(policy, update._config, actor_optimizer(policy, update._config, NONE))
    batch = ActorBatch(*(tensor.float() for tensor in vars(make_batches(make()[0])[0]).values()))
    with torch.no_grad():
        update.begin(batch, 1e-4)
        run_half(update, data_orders(1), 4)
        policy.actor.fc1.weight[0] = 0
        policy.actor.fc1.bias[0] = -1  # dead from now on
    for _ in range(150):  # 0.9^1200 = 1e-55
        update.begin(batch, 1e-4)
        run_half(update, data_orders(), 4)
    moments = update.optimizer.state[policy.actor.fc1.weight]["exp_avg"]
    assert not moments[0].any()
    assert moments[1].any()
