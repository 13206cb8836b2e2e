"""One policy and stacked ones: what they compute, learn, save and capture, for any network."""

import copy
from pathlib import Path

import pytest
import torch
from made_up_mitigations import Noise
from torch import nn

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.ppo.stacked_policies import StackedPolicies
from plasticity.agents.ppo.updates import Half
from plasticity.mitigations import (
    MITIGATIONS,
    PLAIN_METHOD,
    L2Init,
    SeededMethod,
    Syre,
    WeightDecay,
)

SYRE = SeededMethod((Syre(strength=1e-2, sigma=0.3),), anchor_seed=1)
DECAY = SeededMethod((WeightDecay(strength=1e-2),), anchor_seed=2)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def update(made, policies=None, rate=1e-2):
    """Learn from the rollout."""
    rates = [rate] * len(made.copies)
    return (policies or made.policies).update(made.batch, made.orders, rates)


# ---- what they compute ---------------------------------------------------------------------------


@pytest.mark.parametrize("discrete", [False, True])
def test_outputs_values_and_the_distribution_of_actions(make, by_autograd, discrete):
    made = make(discrete=discrete)
    policies, batch = made.policies, made.batch
    outputs, values = policies.act(batch.observations), policies.values(batch.observations)
    log_probabilities = policies.log_probabilities(outputs, batch.actions)
    entropy = policies.entropy(outputs)
    assert policies.lead == (() if made.form == "single" else (3,))
    assert (policies.log_std is None) == discrete
    assert policies.hidden_layers == ("actor.fc1", "actor.fc2", "critic.fc1", "critic.fc2")
    for index, policy, own, _ in made.each():
        torch.testing.assert_close(made.of(outputs, index), policy.actor(own.observations).detach())
        expected = policy.critic(own.observations).squeeze(1).detach()
        torch.testing.assert_close(made.of(values, index), expected)
        found = by_autograd[0](policy, own.observations)
        expected = found.log_prob(own.actions).detach()
        torch.testing.assert_close(made.of(log_probabilities, index), expected)
        expected = found.entropy().mean().detach()
        torch.testing.assert_close(made.of(entropy, index), expected)
        for name, parameter in policy.named_parameters():
            assert torch.equal(made.of(policies.parameters[name], index), parameter)
    for each in (outputs, values, log_probabilities, entropy):
        assert not each.requires_grad


# ---- what they learn -----------------------------------------------------------------------------


SETTINGS = [
    {"normalize_advantages": "rollout"},
    {"normalize_advantages": "minibatch", "entropy_coefficient": 0.1},
    {"normalize_advantages": "none", "value_clip_range": 0.5, "value_coefficient": 0.3},
    {"normalize_advantages": "none", "max_gradient_norm": 0.1, "target_kl": 2.0},
    {"activation": "tanh", "max_gradient_norm": 0.1},
]


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_each_stacked_policy_learns_like_a_separate_one(make, settings, discrete):
    made = make(discrete=discrete, actor=SYRE, critic=DECAY, **settings)
    found = update(made)
    for index, policy, batch, data_orders in made.each():
        single = SinglePolicy(policy, made.config, SYRE, DECAY)
        expected = single.update(batch, data_orders, [1e-2])
        assert expected.keys() == found.keys()
        for name, number in expected.items():
            torch.testing.assert_close(found[name][index], number, **CLOSE)
        stacked = made.policies.policy(index)
        for name, parameter in policy.named_parameters():
            torch.testing.assert_close(stacked.get_parameter(name), parameter, **CLOSE)
            torch.testing.assert_close(stacked.get_parameter(name).grad, parameter.grad, **CLOSE)
    assert (found["clip_fraction"] > 0.1).all()


class Convolution(nn.Module):
    """Network of flat observations that is not dense."""

    def __init__(self, outputs, generator):
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 3)  # 5 numbers become 3 positions
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, observations):
        maps = self.convolution(observations.unsqueeze(-2))
        return self.head(torch.tanh(self.norm(maps.flatten(-2))))


def convolutions(generator):
    return {"actor": Convolution(3, generator), "critic": Convolution(1, generator)}


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("max_gradient_norm", [None, 0.1])
def test_any_network_learns_as_by_autograd_on_the_losses(
    make, by_autograd, discrete, max_gradient_norm
):
    made = make(
        networks=convolutions,
        discrete=discrete,
        normalize_advantages="none",
        entropy_coefficient=0.01,
        value_clip_range=0.2,
        max_gradient_norm=max_gradient_norm,
    )
    assert made.policies.hidden_layers == ()
    update(made)
    _, policy_loss, value_loss = by_autograd
    for index, policy, batch, data_orders in made.each():
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
        for rows in data_orders.reshape(-1, 16):
            loss = policy_loss(policy, made.config, batch, rows, batch.advantages[rows])
            loss = loss + value_loss(policy, made.config, batch, rows)
            optimizer.zero_grad()
            loss.backward()
            if max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(policy.parameters(), max_gradient_norm)
            optimizer.step()
        found = made.policies.policy(index)
        for name, parameter in policy.named_parameters():
            torch.testing.assert_close(found.get_parameter(name), parameter, **CLOSE)


def test_the_learning_rate_is_that_of_the_update(make):
    made = make()
    before = {name: p.detach().clone() for name, p in made.policies.parameters.items()}
    update(made, rate=0.0)
    for name, parameter in made.policies.parameters.items():
        assert torch.equal(parameter, before[name])
    update(made)
    for name, parameter in made.policies.parameters.items():
        assert not torch.equal(parameter, before[name])


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
def test_rates_may_differ_and_a_frozen_policy_stays(make):
    made = make()
    before = {name: p.detach().clone() for name, p in made.policies.parameters.items()}
    made.policies.freeze(2)
    made.policies.update(made.batch, made.orders, [1e-2, 0.0, 1e-2])
    for name, parameter in made.policies.parameters.items():
        assert [torch.equal(*pair) for pair in zip(parameter, before[name], strict=True)] == [
            False,
            True,
            True,
        ]
    rates = [
        made.policies.state_dict(i)["actor_optimizer"]["param_groups"][0]["lr"] for i in (0, 1)
    ]
    assert rates == [1e-2, 0.0]


@pytest.mark.parametrize("form", ["single"], indirect=True)
@pytest.mark.parametrize("networks", [None, convolutions])
def test_a_critic_in_its_own_process_gives_the_same_bits(make, networks, monkeypatch):
    # The process imports this file, which holds the class of one of the critics.
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    made = make(networks=networks)
    here, there = (
        SinglePolicy(copy.deepcopy(made.copies[0]), made.config, SYRE, DECAY, update_threads=n)
        for n in (1, 2)
    )
    try:
        for _ in range(2):
            expected, found = update(made, here), update(made, there)
            assert list(expected) == list(found)
            for name, number in expected.items():
                assert torch.equal(found[name], number)
        for name, parameter in here.policy().named_parameters():
            assert torch.equal(there.policy().get_parameter(name), parameter)
        assert there.state_dict()["critic_optimizer"].keys() == {"state", "param_groups"}
    finally:
        there.close()
    with pytest.raises(RuntimeError, match="ended with exit status"):
        update(made, there)


# ---- waiting for the device ----------------------------------------------------------------------

REGULARIZERS = [
    PLAIN_METHOD,
    DECAY,
    SYRE,
    SeededMethod((Syre(anisotropy=0.2, strength=0.01, sigma=0.5),), anchor_seed=3),
    SeededMethod((L2Init(strength=0.01),)),
]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("settings", REGULARIZERS, ids=lambda s: s.regularizer.regularizer)
@pytest.mark.parametrize(
    "options",
    [
        {"normalize_advantages": "minibatch"},
        {"normalize_advantages": "rollout", "value_clip_range": 0.2},
        {"max_gradient_norm": 0.5, "entropy_coefficient": 0.01},
    ],
)
def test_an_update_never_waits(make, never_waits, options, settings, discrete):
    made = make(discrete=discrete, actor=settings, critic=settings, **options)
    update(made)
    with never_waits():
        update(made)


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
def test_a_target_kl_of_stacked_policies_never_waits(make, never_waits):
    made = make(target_kl=0.1, max_gradient_norm=0.5)
    update(made)
    with never_waits():
        update(made)


# ---- a CUDA graph --------------------------------------------------------------------------------

CAPTURED = [
    {},
    {"max_gradient_norm": 0.1, "value_clip_range": 0.2, "entropy_coefficient": 0.01},
    {"normalize_advantages": "minibatch"},
]


def compare(eager, captured, batches, data_orders, **tolerance):
    """Run updates with a falling learning rate, loading the other's states halfway."""
    for number in range(11):
        rates = [0.01 / (1 + number)] * max(1, *eager.lead, 1)
        batch = batches[number % len(batches)]
        expected = eager.update(batch, data_orders, rates)
        found = captured.update(batch, data_orders, rates)
        assert expected.keys() == found.keys()
        for name, wanted in expected.items():
            torch.testing.assert_close(found[name], wanted, **tolerance)
        if number == 5:
            for index in range(len(rates)):
                captured.load_state_dict(copy.deepcopy(eager.state_dict(index)), index)
    for index in range(len(rates)):
        expected, found = eager.state_dict(index), captured.state_dict(index)
        for name, weight in expected["policy"].items():
            torch.testing.assert_close(found["policy"][name], weight, **tolerance)
        for name in ("actor_optimizer", "critic_optimizer"):
            group = found[name]["param_groups"][0]
            assert group["lr"] == rates[0]
            assert isinstance(group["lr"], float)


@pytest.mark.parametrize("networks", [None, convolutions])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("settings", CAPTURED)
def test_a_captured_update_equals_the_eager_update(
    cuda_graphs_on_cpu, make, settings, discrete, networks
):
    options = {"discrete": discrete, "actor": SYRE, "critic": DECAY, "networks": networks}
    eager = make(**options, **settings)
    captured = make(**options, **settings, compile=True)
    batches = [eager.batch, make(**options, **settings).batch]
    # The CPU's kernel uses a learning rate in a tensor as float32, but a number as float64.
    compare(eager.policies, captured.policies, batches, eager.orders, rtol=1e-5, atol=1e-6)
    assert len(cuda_graphs_on_cpu) == 2  # before and after loading


def test_a_captured_update_runs_no_python(cuda_graphs_on_cpu, make, monkeypatch):
    made = make(compile=True)
    for _ in range(4):
        update(made)
    before = {name: p.detach().clone() for name, p in made.policies.parameters.items()}
    monkeypatch.setattr(Half, "_split", None)
    update(made)
    for name, parameter in made.policies.parameters.items():
        assert not torch.equal(parameter, before[name])


def test_a_cpu_has_no_graphs(make):
    with pytest.raises(ValueError, match=r"CUDA graph \(compile\) needs a CUDA device, not cpu"):
        make(compile=True)


@needs_cuda
@pytest.mark.parametrize("networks", [None, convolutions])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("settings", CAPTURED)
def test_captured_and_eager_agree_on_a_gpu(make, settings, discrete, networks):
    made = make(discrete=discrete, networks=networks, **settings)
    for policy in made.copies:
        policy.cuda()
    batch = type(made.batch)(*(tensor.cuda() for tensor in vars(made.batch).values()))
    eager = made.again()
    made.config = PPOConfig(**(vars(made.config) | {"compile": True}))
    compare(eager, made.again(), [batch], made.orders.cuda(), rtol=1e-6, atol=1e-7)


@needs_cuda
@pytest.mark.parametrize("compiles", [False, True])
def test_an_update_never_waits_on_a_gpu(make, compiles):
    made = make()
    for policy in made.copies:
        policy.cuda()
    made.config = PPOConfig(**(vars(made.config) | {"compile": compiles}))
    batch = type(made.batch)(*(tensor.cuda() for tensor in vars(made.batch).values()))
    policies, orders = made.again(), made.orders.cuda()
    for _ in range(4):
        policies.update(batch, orders, [1e-2] * len(made.copies))
    torch.cuda.set_sync_debug_mode("error")
    try:
        policies.update(batch, orders, [5e-3] * len(made.copies))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- saving and loading --------------------------------------------------------------------------


@pytest.mark.parametrize("networks", [None, convolutions])
def test_either_form_continues_from_the_states_of_the_other(make, networks):
    made = make(actor=SYRE, critic=DECAY, networks=networks)
    update(made)
    states = [copy.deepcopy(made.policies.state_dict(i)) for i in range(len(made.copies))]
    assert list(states[0]) == ["policy", "actor_optimizer", "critic_optimizer"]
    update(made)
    for index, _, batch, data_orders in made.each():
        if made.form == "single":
            pair = [copy.deepcopy(made.copies[0]) for _ in range(2)]
            other = StackedPolicies(pair, made.config, [SYRE] * 2, [DECAY] * 2)
            other.load_state_dict(states[0], 1)
            twice = type(batch)(*(torch.stack([t, t]) for t in vars(batch).values()))
            other.update(twice, torch.stack([data_orders] * 2), [1e-2] * 2)
            state = other.state_dict(1)
        else:
            other = made.again(SYRE, DECAY, form="single")
            other.load_state_dict(states[index])
            other.update(batch, data_orders, [1e-2])
            state = other.state_dict()
        expected = made.policies.state_dict(index)
        for name, weight in expected["policy"].items():
            torch.testing.assert_close(state["policy"][name], weight, **CLOSE)
        for name in ("actor_optimizer", "critic_optimizer"):
            for position, moments in expected[name]["state"].items():
                for key, tensor in moments.items():
                    found = state[name]["state"][position][key]
                    torch.testing.assert_close(found, tensor, **CLOSE)


def test_there_is_no_other_policy(make):
    policies = make().policies
    number = max(1, *policies.lead, 1)
    state = policies.state_dict()
    for call in (
        policies.policy,
        policies.state_dict,
        policies.freeze,
        lambda index: policies.load_state_dict(state, index),
    ):
        with pytest.raises(IndexError, match=f"Index {number} is out of range"):
            call(number)


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
def test_each_policy_needs_its_settings(make):
    made = make()
    with pytest.raises(ValueError, match="3 policies, 3 actors' and 2 critics' settings"):
        StackedPolicies(made.copies, made.config, [SYRE] * 3, [DECAY] * 2)


def test_update_threads_must_fit():
    for options, message in (
        ({"max_gradient_norm": 0.5}, r"max_gradient_norm=0\.5 couples actor and critic"),
        ({"target_kl": 0.1}, r"target_kl=0\.1 couples actor and critic"),
    ):
        config = PPOConfig(hidden=(4,), **options)
        with pytest.raises(ValueError, match=message):
            SinglePolicy(ActorCritic(2, 1, config), config, SYRE, DECAY, update_threads=2)
    config = PPOConfig(hidden=(4,))
    policy = ActorCritic(2, 1, config)
    with pytest.raises(ValueError, match="update_threads"):
        SinglePolicy(policy, config, SYRE, DECAY, update_threads=3)
    with pytest.raises(ValueError, match="works on a CPU only, not on meta"):
        SinglePolicy(policy.to("meta"), config, SYRE, DECAY, update_threads=2)


# ---- what mitigations count ---------------------------------------------------------------------


def test_counts_of_each_policy_wait_for_its_own_row(make):
    noise = SeededMethod((Noise(sigma=1e-6),))
    made = make()
    policies = made.again(noise, noise)
    steps = 2 * 64 / 16  # of an update: epochs times minibatches
    update(made, policies)
    runs = list(range(len(made.copies)))
    last = runs[-1]
    assert policies.take_counts([last]) == [{"noise/actor": steps, "noise/critic": steps}]
    update(made, policies)
    for run, found in zip(runs, policies.take_counts(), strict=True):
        counted = steps if run == last else 2 * steps
        assert found == {"noise/actor": counted, "noise/critic": counted}


# ---- mitigations that change parameters -------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name, kind in MITIGATIONS.items() if not kind.reads_batches]
)
def test_parameters_are_those_that_the_policy_has_once_it_is_prepared(name):
    """A mitigation may add parameters (InFeR's heads) or remove some (the biases of NaP)."""
    settings = {"kappa": 100.0} if name == "weight-clipping" else {}
    method = (MITIGATIONS[name](**settings),)
    config = PPOConfig(hidden=(8, 8), rollout_steps=8, minibatch_size=4)
    policy = ActorCritic(3, 2, config, actor_method=method, critic_method=method)
    seeded = SeededMethod(method)
    policies = SinglePolicy(policy, config, seeded, seeded)
    own = dict(policy.named_parameters())
    assert list(policies.parameters) == list(own)
    assert all(policies.parameters[key] is each for key, each in own.items())
