"""Mitigations of actor and critic: written out, by autograd, stacked, and in a process of their own."""

import copy

import pytest
import torch
from made_up_mitigations import (
    ALL,
    Average,
    BiasGradients,
    FeaturePenalty,
    GradientScale,
    L2Penalty,
    Noise,
    Replace,
    Shrink,
)

from plasticity.agents.execution.dense import DenseGradients
from plasticity.agents.ppo import halves
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.gradients import AutogradGradients
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.updates import minibatch_rows
from plasticity.mitigations import (
    DASH,
    PLAIN_METHOD,
    LayerNorm,
    ReDo,
    SeededMethod,
    Syre,
    WeightDecay,
)

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
STEPS = 8  # of each half in an update: 2 epochs of 4 minibatches
METHODS = [
    (L2Penalty(strength=0.3),),
    (FeaturePenalty(strength=0.3),),
    (GradientScale(factor=0.3),),
    (BiasGradients(),),
    (Noise(sigma=0.01),),
    (ReDo(every=3, tau=0.9),),
    (Replace(),),
    (Syre(strength=0.1, sigma=0.3), *ALL),
]


def names(method):
    return "+".join(each.name for each in method)


def seeded(*method, seed=0):
    return SeededMethod(method, anchor_seed=1, noise_seed=seed)


def update(made, policies=None):
    policies = policies or made.policies
    return policies.update(made.batch, made.orders, [1e-2] * len(made.copies))


def weights(policies, index=0):
    return {name: each.clone() for name, each in policies.networks.state_dict(index).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(
            found[name], each, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---- against closed forms ----------------------------------------------------------------------------


def test_an_l2_penalty_is_weight_decay(make):
    made = make(actor=seeded(L2Penalty(strength=0.2)), critic=seeded(L2Penalty(strength=0.5)))
    decay = [seeded(WeightDecay(strength=strength)) for strength in (0.2, 0.5)]
    expected = made.again(*decay)
    update(made)
    update(made, expected)
    for index, *_ in made.each():
        assert_close(weights(made.policies, index), weights(expected, index))


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_the_gradient_of_a_penalty_on_features_equals_autograd(make, by_autograd, part):
    method = seeded(FeaturePenalty(strength=0.3))
    made = make(activation="tanh", normalize_advantages="none", **{part: method})
    policies, batch = made.policies, made.batch
    half = policies._actor if part == "actor" else policies._critic
    assert isinstance(half._network, AutogradGradients)
    half.begin(batch) if part == "actor" else half.begin(
        batch.observations, batch.values, batch.returns
    )
    half.begin_epoch(minibatch_rows(made.orders, 16)[0])
    half.compute_gradients(0)
    _, policy_loss, value_loss = by_autograd
    for index, policy, own, orders in made.each():
        rows = orders[0, :16]
        if part == "actor":
            loss = policy_loss(policy, made.config, own, rows, own.advantages[rows])
        else:
            loss = value_loss(policy, made.config, own, rows)
        network = getattr(policy, part)
        first = torch.tanh(own.observations[rows] @ network.fc1.weight.mT + network.fc1.bias)
        second = torch.tanh(first @ network.fc2.weight.mT + network.fc2.bias)
        loss = loss + 0.3 * (first.square().mean() + second.square().mean())
        parameters = dict(network.named_parameters())
        found = policies.policy(index)
        for (name, _), gradient in zip(
            parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
        ):
            torch.testing.assert_close(found.get_parameter(f"{part}.{name}").grad, gradient)


def test_all_units_reset_after_the_last_step(make):
    """Fresh hidden weights, zero outgoing ones, and zero moments, in spite of Adam's momentum."""
    made = make(actor=seeded(ReDo(every=STEPS, tau=1e9)), initialization="orthogonal")
    update(made)
    for index, *_ in made.each():
        after = weights(made.policies, index)
        fresh = after["actor.fc1.weight"]  # (8, 5), with orthogonal columns of length sqrt(2)
        torch.testing.assert_close(fresh.mT @ fresh, 2 * torch.eye(5, dtype=fresh.dtype))
        for name in ("fc1.bias", "fc2.weight", "fc2.bias", "head.weight"):
            assert (after[f"actor.{name}"] == 0).all()
            assert (after[f"critic.{name}"] != 0).any()
        state = made.policies.state_dict(index)["actor_optimizer"]["state"]
        zero = [bool((each["exp_avg"] == 0).all()) for each in state.values()]
        assert sum(zero) == 5  # all but the head's bias and log_std
        assert all(each["step"] == STEPS for each in state.values())
    assert made.policies.take_counts() == [
        {"reset_units/actor.fc1": 8.0, "reset_units/actor.fc2": 7.0} for _ in made.copies
    ]


def test_clipping_comes_before_the_gradients_are_edited(make):
    """The joint norm is clipped to 0.1, then the actor's part is scaled by 3."""
    scale = seeded(GradientScale(factor=3.0))
    made = make(actor=scale, max_gradient_norm=0.1, epochs=1, minibatch_size=64)
    plain = made.again()
    update(made)
    update(made, plain)
    for index, *_ in made.each():
        found, expected = made.policies.policy(index), plain.policy(index)
        for name, each in found.actor.named_parameters():
            torch.testing.assert_close(each.grad, 3 * expected.actor.get_parameter(name).grad)
        torch.testing.assert_close(found.log_std.grad, expected.log_std.grad)
        for name, each in found.critic.named_parameters():
            torch.testing.assert_close(each.grad, expected.critic.get_parameter(name).grad)


@pytest.mark.parametrize("method", [(ReDo(every=1, tau=0.0),), (Noise(sigma=0.0),)], ids=names)
def test_a_mitigation_without_effect_leaves_every_bit(make, method):
    """tanh units are never exactly silent, so ReDo with tau=0 resets none of them."""
    made = make(actor=seeded(*method), critic=seeded(*method, seed=1), activation="tanh")
    plain = made.again()
    random = torch.get_rng_state()
    statistics = update(made)
    assert torch.equal(torch.get_rng_state(), random)
    for name, each in update(made, plain).items():
        assert torch.equal(statistics[name], each)
    for index, *_ in made.each():
        assert_equal(weights(made.policies, index), weights(plain, index))


# ---- the forms agree ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=names)
@pytest.mark.parametrize("coupled", [False, True])
def test_written_out_as_by_autograd(make, monkeypatch, method, coupled):
    settings = {"max_gradient_norm": 0.5} if coupled else {}
    given = seeded(*method), seeded(*method, seed=1)
    made = make(actor=given[0], critic=given[1], **settings)
    is_dense = not any(each.penalizes_features for each in method)
    assert isinstance(made.policies._actor._network, DenseGradients) == is_dense
    monkeypatch.setattr(
        halves, "gradients_of", lambda networks, *_, **__: AutogradGradients(networks)
    )
    expected = made.again(*given)
    for _ in range(2):
        update(made)
        update(made, expected)
    for index, *_ in made.each():
        assert_close(weights(made.policies, index), weights(expected, index))
    assert made.policies.take_counts() == expected.take_counts()


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=names)
def test_each_stacked_policy_learns_like_a_separate_one(make, method, discrete):
    given = seeded(*method), seeded(*method, seed=1)
    made = make(actor=given[0], critic=given[1], discrete=discrete)
    for _ in range(2):
        update(made)
        made.policies.boundary(1, 1)  # of one policy only
    counts = made.policies.take_counts()
    for index, policy, batch, orders in made.each():
        single = SinglePolicy(policy, made.config, *given)
        for _ in range(2):
            single.update(batch, orders, [1e-2])
            if index == 1:
                single.boundary(1, 0)
        assert_close(weights(made.policies, index), weights(single))
        own = single.take_counts()[0]
        assert {name: number for name, number in counts[index].items() if number} == own
        with single.evaluating(), made.policies.evaluating():
            assert_close(weights(made.policies, index), weights(single))


def test_settings_of_stacked_policies_may_differ(make):
    """Three policies with three thresholds, where a threshold along the units would be no error."""
    made = make(hidden=(3,))
    if made.form == "single":
        return
    taus = (0.5, 0.9, 1.2)
    methods = [seeded(ReDo(every=3, tau=tau)) for tau in taus]
    stacked = type(made.policies)(copy.deepcopy(made.copies), made.config, methods, methods)
    update(made, stacked)
    for index, policy, batch, orders in made.each():
        single = SinglePolicy(policy, made.config, methods[index], methods[index])
        single.update(batch, orders, [1e-2])
        assert_close(weights(stacked, index), weights(single))


@pytest.mark.parametrize("form", ["single"], indirect=True)
# METHODS but those that the last one of them contains: a process takes seconds to start
@pytest.mark.parametrize("method", [*METHODS[5:], (LayerNorm(), ReDo(every=2, tau=0.9))], ids=names)
def test_the_critic_in_its_own_process_has_the_same_bits(make, method):
    made = make()
    given = seeded(*method), seeded(*method, seed=1)
    one, two = (
        SinglePolicy(copy.deepcopy(made.copies[0]), made.config, *given, update_threads=count)
        for count in (1, 2)
    )
    try:
        for task in (1, 2):
            for each in (one, two):
                update(made, each)
                each.boundary(task, 0)
            assert_equal(weights(two), weights(one))
        with one.evaluating(), two.evaluating():
            assert_equal(weights(two), weights(one))
        state, expected = two.state_dict(), one.state_dict()
        assert state.keys() == expected.keys()
        assert_same_tree(state["critic_mitigations"], expected["critic_mitigations"])
        assert two.take_counts() == one.take_counts()
        # a run may go on with another number of processes
        one.load_state_dict(copy.deepcopy(state))
        two.load_state_dict(copy.deepcopy(expected))
        for each in (one, two):
            update(made, each)
        assert_equal(weights(two), weights(one))
    finally:
        two.close()


def assert_same_tree(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, each in expected.items():
            assert_same_tree(found[name], each)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


# ---- freezing, saving and loading --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
@pytest.mark.parametrize("method", [(ReDo(every=1, tau=1.0),), ALL], ids=names)
def test_a_frozen_policy_stays_as_it_is(make, method):
    given = seeded(*method), seeded(*method, seed=1)
    made = make(actor=given[0], critic=given[1])
    expected = made.again(*given)
    for each in (made.policies, expected):
        update(made, each)
    made.policies.freeze(1)
    before = weights(made.policies, 1)
    for each in (made.policies, expected):
        update(made, each)
    assert_equal(weights(made.policies, 1), before)
    for index in (0, 2):
        assert_equal(weights(made.policies, index), weights(expected, index))


@pytest.mark.parametrize("method", [(ReDo(every=3, tau=0.9),), ALL], ids=names)
@pytest.mark.parametrize("updates", [0, 1])
def test_learning_continues_to_the_bit(make, method, updates):
    given = seeded(*method), seeded(*method, seed=1)
    made = make(actor=given[0], critic=given[1])
    for _ in range(updates):
        update(made)
        made.policies.boundary(1, 0)
    resumed = made.again(*given)
    for index, *_ in made.each():
        resumed.load_state_dict(copy.deepcopy(made.policies.state_dict(index)), index)
    for each in (made.policies, resumed):
        update(made, each)
        each.boundary(2, 0)
        update(made, each)
    for index, *_ in made.each():
        assert_equal(weights(resumed, index), weights(made.policies, index))
    assert resumed.take_counts() == made.policies.take_counts()


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
@pytest.mark.parametrize("method", [(ReDo(every=3, tau=0.9),), ALL], ids=names)
def test_states_go_from_stacked_to_single_and_back(make, method):
    given = seeded(*method), seeded(*method, seed=1)
    made = make(actor=given[0], critic=given[1])
    update(made)
    stacked = made.again(*given)
    for index, policy, batch, orders in made.each():
        single = SinglePolicy(copy.deepcopy(policy), made.config, *given)
        single.load_state_dict(copy.deepcopy(made.policies.state_dict(index)))
        single.update(batch, orders, [1e-2])
        stacked.load_state_dict(copy.deepcopy(single.state_dict()), index)
    for _ in range(2):
        update(made)
    update(made, stacked)
    for index, *_ in made.each():
        assert_close(weights(stacked, index), weights(made.policies, index))


# ---- boundaries, evaluation, and what is refused -----------------------------------------------------


def test_a_boundary_and_an_evaluation_are_of_each_part(make):
    made = make(actor=seeded(Shrink(share=1.0)), critic=seeded(Average(rate=0.5)))
    update(made)
    before = [weights(made.policies, index) for index, *_ in made.each()]
    last = len(before) - 1
    made.policies.boundary(1, last)
    for index, own in enumerate(before):
        after = weights(made.policies, index)
        changed = {name for name, each in after.items() if not torch.equal(each, own[name])}
        # all weights of the last one's actor; zero biases are drawn as what they were
        assert {name.split(".")[0] for name in changed} == ({"actor"} if index == last else set())
    with made.policies.evaluating():
        inside = weights(made.policies, last)
    outside = weights(made.policies, last)
    moved = {name for name, each in inside.items() if not torch.equal(each, outside[name])}
    assert {name.split(".")[0] for name in moved} == {"critic"}
    counts = made.policies.take_counts()
    assert counts[last] == {"boundaries/actor": 1.0}


def test_what_does_not_go_with_mitigations_is_refused(make):
    redo = seeded(ReDo())
    with pytest.raises(ValueError, match="redo cannot be part of a compiled update"):
        make(actor=redo, compile=True)
    with pytest.raises(ValueError, match="dash needs the examples of the task that begins"):
        make(critic=seeded(DASH()))
    if make(actor=redo).form == "stacked":
        with pytest.raises(ValueError, match=r"with redo cannot stop at target_kl=0\.1"):
            make(critic=redo, target_kl=0.1)
    else:
        make(critic=redo, target_kl=0.1)


@pytest.mark.parametrize("form", ["single"], indirect=True)
def test_a_step_that_the_target_kl_prevents_is_none(make):
    """The update stops before a step, after which nothing acts."""
    made = make(actor=seeded(Noise()), critic=seeded(Noise()), target_kl=1e-9)
    update(made)
    steps = made.policies.state_dict()["actor_mitigations"]["steps"]
    state = made.policies.state_dict()["actor_optimizer"]["state"]
    done = {int(each["step"]) for each in state.values()}
    assert done == ({steps} if steps else set())
    assert steps < STEPS


def test_a_critic_without_mitigations_has_no_hooks():
    config = PPOConfig(hidden=(4,), rollout_steps=64, minibatch_size=16)
    critic = torch.nn.Linear(5, 1)
    assert halves.critic_half(critic, config, PLAIN_METHOD).hooks is None
    assert halves.critic_half(critic, config, seeded(Syre())).hooks is None
    assert halves.critic_half(critic, config, seeded(Noise())).hooks.names == "noise"
