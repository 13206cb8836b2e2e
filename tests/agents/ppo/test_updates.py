"""The halves of one and of stacked policies compared with autograd, and their bookkeeping."""

import copy

import pytest
import torch

from plasticity.agents.ppo.updates import (
    minibatch_rows,
    run_coupled,
    run_half,
)
from plasticity.mitigations import SeededMethod, Syre


def begun(made):
    """Return both halves at the beginning of an update."""
    actor, critic, batch = made.policies._actor, made.policies._critic, made.batch
    for optimizer in made.policies._optimizers.values():
        optimizer.set_learning_rate([1e-2] * len(made.copies))
    actor.begin(batch)
    critic.begin(batch.observations, batch.values, batch.returns)
    return actor, critic


def begin_epoch(made, epoch=0):
    halves = begun(made)
    for half in halves:
        half.begin_epoch(minibatch_rows(made.orders, 16)[epoch])
    return halves


def normalize(advantages):
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def assert_gradients(found, loss, parameters):
    parameters = dict(parameters)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for name, wanted in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(found.get_parameter(name).grad, wanted)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.1])
@pytest.mark.parametrize("scope", ["rollout", "minibatch", "none"])
def test_actor_gradient_equals_autograd(make, by_autograd, discrete, entropy_coefficient, scope):
    made = make(
        discrete=discrete, entropy_coefficient=entropy_coefficient, normalize_advantages=scope
    )
    actor, _ = begin_epoch(made)
    _, policy_loss, _ = by_autograd
    for number in (0, 1):
        actor.compute_gradients(number)
        for index, policy, batch, data_orders in made.each():
            rows = data_orders[0, 16 * number : 16 * number + 16]
            advantages = batch.advantages
            if scope == "rollout":
                advantages = normalize(advantages)
            advantages = advantages[rows]
            if scope == "minibatch":
                advantages = normalize(advantages)
            loss = policy_loss(policy, made.config, batch, rows, advantages)
            parameters = [
                each for each in policy.named_parameters() if not each[0].startswith("critic.")
            ]
            assert_gradients(made.policies.policy(index), loss, parameters)


@pytest.mark.parametrize("value_clip_range", [None, 0.2])
def test_critic_gradient_equals_autograd(make, by_autograd, value_clip_range):
    made = make(value_clip_range=value_clip_range, value_coefficient=0.7)
    _, critic = begin_epoch(made)
    critic.compute_gradients(1)
    for index, policy, batch, data_orders in made.each():
        rows = data_orders[0, 16:32]
        if value_clip_range is not None:
            change = policy.critic(batch.observations[rows]).squeeze(1) - batch.values[rows]
            assert 0 < (change.abs() > value_clip_range).sum() < 16
        loss = by_autograd[2](policy, made.config, batch, rows)
        parameters = [each for each in policy.named_parameters() if each[0].startswith("critic.")]
        assert_gradients(made.policies.policy(index), loss, parameters)


def test_statistics(make, by_autograd):
    made = make(normalize_advantages="none")
    actor, critic = begun(made)
    numbers = [([], [], []) for _ in made.copies]
    for epoch, rows_of_epoch in enumerate(minibatch_rows(made.orders, 16)):
        actor.begin_epoch(rows_of_epoch)
        critic.begin_epoch(rows_of_epoch)
        for number in range(4):
            latest = []
            for index, _, batch, data_orders in made.each():
                rows = data_orders[epoch, 16 * number : 16 * number + 16]
                policy, observations = made.policies.policy(index), batch.observations[rows]
                with torch.no_grad():
                    found = by_autograd[0](policy, observations).log_prob(batch.actions[rows])
                    values = policy.critic(observations).squeeze(1)
                latest.append(found - batch.log_probabilities[rows])
                for kept, own in zip(
                    numbers[index],
                    (latest[-1], values - batch.returns[rows], batch.advantages[rows]),
                    strict=True,
                ):
                    kept.append(own)
            actor.compute_gradients(number)
            critic.compute_gradients(number)
            for index, log_ratio in enumerate(latest):
                kl = (log_ratio.exp() - 1 - log_ratio).mean()
                torch.testing.assert_close(made.of(actor.approximate_kl(), index), kl)
            actor.optimizer.step()
            critic.optimizer.step()
    found = actor.statistics() | critic.statistics()
    for index, kept in enumerate(numbers):
        log_ratios, errors, advantages = (torch.cat(each) for each in kept)
        ratios, last = log_ratios.exp(), log_ratios[64:]  # the second of two epochs
        clipped = ((ratios - 1).abs() > 0.2).double().mean()
        assert 0 < clipped < 1
        expected = {
            "policy_loss": -torch.min(
                ratios * advantages, ratios.clamp(0.8, 1.2) * advantages
            ).mean(),
            "clip_fraction": clipped,
            "approximate_kl": (last.exp() - 1 - last).mean(),
            "value_loss": errors.square().mean(),
        }
        for name, number in expected.items():
            torch.testing.assert_close(made.of(found[name], index), number)


def test_a_half_equals_an_explicit_loop(make, by_autograd):
    """With a regularizer, the weights are the same as with autograd and torch's Adam."""
    syre = SeededMethod((Syre(strength=0.1, sigma=0.5),), anchor_seed=4)
    made = make(actor=syre, normalize_advantages="none", betas=(0.8, 0.9))
    actor, _ = begun(made)
    run_half(actor, made.orders)
    for index, policy, batch, data_orders in made.each():
        # the anchor depends on the seed and the position only
        twin = made.again(actor=syre, form="single")._actor.optimizer.ordinary
        anchors = [twin.anchor(p) for group in twin.param_groups for p in group["params"]]
        *anchors, of_log_std = anchors
        assert of_log_std is None
        parameters = [*policy.actor.parameters(), policy.log_std]
        optimizer = torch.optim.Adam(parameters, lr=1e-2, betas=(0.8, 0.9))
        for data_order in data_orders:
            for rows in data_order.split(16):
                loss = by_autograd[1](policy, made.config, batch, rows, batch.advantages[rows])
                for parameter, anchor in zip(policy.actor.parameters(), anchors, strict=True):
                    loss = loss + 0.1 / 2 * (parameter - anchor).square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        found = made.policies.policy(index)
        for name, parameter in policy.named_parameters():
            torch.testing.assert_close(found.get_parameter(name), parameter)


def weights(made):
    return {name: tensor.detach().clone() for name, tensor in made.policies.parameters.items()}


def test_coupled_without_a_limit_equals_separate_halves(make):
    separate, coupled = make(), make(max_gradient_norm=1e9, target_kl=1e9)
    for half in begun(separate):
        run_half(half, separate.orders)
    run_coupled(*begun(coupled), coupled.orders)
    expected = weights(separate)
    for name, found in weights(coupled).items():
        assert torch.equal(found, expected[name])


def test_gradients_are_clipped_by_their_joint_norm(make):
    made = make(max_gradient_norm=0.01, epochs=1)
    run_coupled(*begun(made), made.orders)
    for index in range(len(made.copies)):
        gradients = [p.grad.flatten() for p in made.policies.policy(index).parameters()]
        assert torch.cat(gradients).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_the_target_kl_stops_before_the_step_beyond_it(make, by_autograd):
    made = make(target_kl=1e-6)
    before = weights(made)
    actor, critic = begun(made)
    counted = run_coupled(actor, critic, made.orders)
    for name, found in weights(made).items():
        assert torch.equal(found, before[name])
    statistics = actor.statistics(counted) | critic.statistics(counted)
    for index, policy, batch, data_orders in made.each():
        # the statistics cover the one minibatch that was evaluated
        rows = data_orders[0, :16]
        found = by_autograd[0](policy, batch.observations[rows]).log_prob(batch.actions[rows])
        log_ratio = found - batch.log_probabilities[rows]
        expected = (log_ratio.exp() - 1 - log_ratio).mean()
        torch.testing.assert_close(made.of(statistics["approximate_kl"], index), expected)
        errors = policy.critic(batch.observations[rows]).squeeze(1) - batch.returns[rows]
        torch.testing.assert_close(made.of(statistics["value_loss"], index), errors.square().mean())


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
def test_a_policy_stops_at_its_own_target_kl_and_the_others_continue(make):
    made = make(target_kl=2.0)
    made.batches[1].log_probabilities.sub_(20)
    before = weights(made)
    actor, critic = begun(made)
    counted = run_coupled(actor, critic, made.orders)
    assert counted.tolist() == [8, 1, 8]  # two epochs of four minibatches
    for name, found in weights(made).items():
        assert torch.equal(found[1], before[name][1])
        assert not torch.equal(found[0], before[name][0])
    for numbers in (actor.statistics(counted) | critic.statistics(counted)).values():
        assert numbers.isfinite().all()


def test_rows_of_minibatches_by_hand():
    one = torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0]])
    assert minibatch_rows(one, 2).tolist() == one.tolist()
    stacked = torch.stack([one, one.flip(1)])
    # The second policy's steps 0 to 3 are rows 4 to 7; a minibatch has two of each.
    assert minibatch_rows(stacked, 2).tolist() == [
        [2, 0, 5, 7, 3, 1, 4, 6],
        [3, 2, 4, 5, 1, 0, 6, 7],
    ]


def test_moments_of_a_dead_unit_do_not_decay_to_denormals(make):
    made = make()
    for each in made.copies:
        each.float()
    for batch in made.batches:
        for name, tensor in vars(batch).items():
            object.__setattr__(batch, name, tensor.float())
    policies, rates = made.again(), [1e-4] * len(made.copies)
    policies.update(made.batch, made.orders, rates)
    with torch.no_grad():
        policies.parameters["actor.fc1.weight"][..., 0, :] = 0
        policies.parameters["actor.fc1.bias"][..., 0] = -1  # dead from now on
    for _ in range(150):  # 0.9^1200 = 1e-55
        policies.update(made.batch, made.orders, rates)
    for index in range(len(made.copies)):
        state = copy.deepcopy(policies.state_dict(index))
        moments = state["actor_optimizer"]["state"][0]["exp_avg"]
        assert not moments[0].any()
        assert moments[1].any()
