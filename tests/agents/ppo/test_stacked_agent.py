"""Stacked agents compared with separate ones: iterations in float64, and one update in float32."""

import copy
import io
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.ppo.agent import PPO
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.device_environments import HostEnvironments, HostStep
from plasticity.agents.ppo.rollout import environment_seeds
from plasticity.agents.ppo.stacked_agent import StackedPPO
from plasticity.agents.ppo.stacked_evaluation import evaluate
from plasticity.optim.settings import RegularizerSettings

EACH = 4  # environments of an agent
SEEDS = (3, 11, 2**40)
ACTORS = (
    RegularizerSettings("syre", 1e-2, 0.3),
    RegularizerSettings("weight-decay", 1e-2),
    RegularizerSettings("l2-init", 1e-1),
)
CRITICS = (RegularizerSettings("syre", 0.5, 0.1, 0.2), None, RegularizerSettings("syre", 1e-3, 1.0))
# Not relu: Adam divides the rounding error of a dead unit's l2-init decay by its epsilon.
SMALL = PPOConfig(
    hidden=(8, 7),
    activation="tanh",
    rollout_steps=48,
    minibatch_size=16,
    epochs=2,
    learning_rate=1e-2,
)


class Toy:
    """Linear dynamics on a device, with deaths, time limits and tasks; resets depend on a counter."""

    observation_size, action_size, limit = 3, 2, 7

    def __init__(self, seeds, device="cpu"):
        self.num_envs, self.device = len(seeds), torch.device(device)
        self.action_low = torch.tensor([-0.5, -1.0], device=device, dtype=torch.get_default_dtype())
        self.action_high = -self.action_low
        self.seeds = torch.tensor(seeds, dtype=torch.float64, device=device)
        number = torch.arange(1.0, 10.0, dtype=torch.float64, device=device)
        self.dynamics = (number.sin() * 0.5).view(3, 3)
        self.control = (number[:6].cos() * 0.6).view(3, 2)
        self.phases = number[:3]
        self.outside = torch.zeros(len(seeds), 2, dtype=torch.bool, device=device)

    def begin(self):
        phase = self.seeds[:, None] * 1e-6 + self.episodes[:, None] * 0.7 + self.phases
        return phase.sin()

    def reset(self):
        self.episodes = torch.zeros_like(self.seeds)
        self.lengths = torch.zeros_like(self.seeds)
        self.state = self.begin()
        return self.state.to(torch.get_default_dtype())

    def step(self, actions):
        self.outside |= (actions < self.action_low) | (actions > self.action_high) | actions.isnan()
        state = self.state @ self.dynamics.T + actions.double() @ self.control.T
        self.lengths += 1
        rewards = state[:, 0] - state[:, 1].square()
        terminated = state[:, 2].abs() > 0.7
        truncated = self.lengths == self.limit
        ended = terminated | truncated
        self.episodes += ended
        self.lengths *= ~ended
        self.state = torch.where(ended[:, None], self.begin(), state)
        dtype = torch.get_default_dtype()
        return HostStep(self.state.to(dtype), rewards, terminated, truncated, state.to(dtype))

    @property
    def tasks(self):
        return (self.episodes // 2).to(torch.int64)

    @property
    def frictions(self):
        return 0.25 + self.tasks.double()

    def state_dict(self):
        return {name: getattr(self, name) for name in ("state", "episodes", "lengths")}

    def load_state_dict(self, state):
        for name, tensor in copy.deepcopy(state).items():
            setattr(self, name, tensor.to(self.device))

    def check(self):
        assert not any(any(each) for each in self.outside.tolist())

    def close(self):
        pass


class ToyVector(gym.vector.VectorEnv):
    """The same dynamics as a Gymnasium vector environment."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    single_action_space = spaces.Box(np.array([-0.5, -1.0]), np.array([0.5, 1.0]), dtype=np.float64)

    def __init__(self, num_envs=EACH):
        self.num_envs = num_envs

    def infos(self):
        return {"task": self.toy.tasks.numpy(), "friction": self.toy.frictions.numpy()}

    def reset(self, *, seed=None, options=None):
        self.toy = Toy(seed)
        return self.toy.reset().numpy(), self.infos()

    def step(self, actions):
        given = self.toy.step(torch.tensor(actions))
        infos = self.infos()
        if (given.terminated | given.truncated).any():
            infos["final_obs"] = given.final_observations.numpy().copy()
        observations, rewards, terminated, truncated, _ = (part.numpy().copy() for part in given)
        return observations, rewards, terminated, truncated, infos


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeds_of_all(seeds):
    return [seed for each in seeds for seed in environment_seeds(each, EACH)]


def stacked(config=SMALL, indices=(0, 1, 2), *, host=False, device="cpu", **settings):
    seeds = [SEEDS[i] for i in indices]
    every = seeds_of_all(seeds)
    envs = HostEnvironments(ToyVector(len(every)), every, device) if host else Toy(every, device)
    return StackedPPO(
        envs,
        config,
        [ACTORS[i] for i in indices],
        [CRITICS[i] for i in indices],
        seeds=seeds,
        **settings,
    )


def separate(index, config=SMALL):
    return PPO(ToyVector(), config, ACTORS[index], CRITICS[index], seed=SEEDS[index])


def assert_close(found, expected, **tolerance):
    """Compare two trees of dictionaries, lists, tensors and numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key], **tolerance)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, **tolerance)
    elif isinstance(expected, torch.Tensor | float):
        torch.testing.assert_close(found, expected, equal_nan=True, **tolerance)
    else:
        assert found == expected


def assert_equal_iterations(found, expected, **tolerance):
    assert_close(found.statistics, expected.statistics, **tolerance)
    assert (found.task, found.friction) == (expected.task, expected.friction)
    assert found.diverged == expected.diverged
    assert len(found.episodes) == len(expected.episodes)
    for one, other in zip(found.episodes, expected.episodes, strict=True):
        assert_close(vars(one), vars(other), **tolerance)


OPTIONS = {
    "plain": {},
    "relu": {"activation": "relu", "epsilon": 1e-3},
    "minibatch": {"normalize_advantages": "minibatch", "entropy_coefficient": 0.05},
    "clipped": {
        "max_gradient_norm": 0.3,
        "value_clip_range": 0.1,
        "value_coefficient": 0.5,
        "normalize_advantages": "none",
    },
    "normalized": {"normalize_observations": True, "normalize_rewards": True},
    "schedule": {
        "learning_rate_schedule": "linear",
        "total_steps": 144,
        "betas": (0.99, 0.99),
        "initialisation": "orthogonal",
        "initial_log_std": -0.5,
    },
    "target-kl": {"target_kl": 0.02, "max_gradient_norm": 1.0},
}


@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("options", OPTIONS)
def test_each_agent_learns_the_same_as_a_separate_one(options, host, float64):
    config = replace(SMALL, **OPTIONS[options])
    ours, theirs = stacked(config, host=host), [separate(i, config) for i in range(3)]
    for _ in range(3):
        found = ours.iterate()
        for index, ppo in enumerate(theirs):
            expected = ppo.iterate()
            assert expected.episodes
            assert_equal_iterations(found[index], expected, rtol=1e-9, atol=1e-10)
            assert_close(ours.observations(index), ppo.observations, rtol=1e-9, atol=1e-10)
    for index, ppo in enumerate(theirs):
        assert_close(ours.state_dict(index), ppo.state_dict(), rtol=1e-9, atol=1e-10)


def test_the_options_have_an_effect(float64):
    """Without an effect, the test above would compare nothing."""
    stopped = stacked(replace(SMALL, target_kl=0.02))
    stopped.iterate()
    states = [stopped.state_dict(index)["critic_optimizer"]["state"] for index in range(3)]
    counts = {state[0]["step"].item() for state in states if state}
    assert len(counts) > 1
    assert min(counts) < 6  # 2 epochs of 3 minibatches
    limited = [e.episode_length for i in stacked().iterate() for e in i.episodes]
    assert limited.count(Toy.limit) > 3
    assert min(limited) < Toy.limit


def relative(found, expected):
    found, expected = (
        torch.cat([p.detach().double().flatten() for p in policy.parameters()])
        for policy in (found, expected)
    )
    return ((found - expected).norm() / expected.norm()).item()


def test_one_update_in_float32():
    config = replace(SMALL, epochs=1, minibatch_size=48, normalize_advantages="none", epsilon=1e-5)
    ours = stacked(config)
    ours.iterate()
    for index in range(3):
        ppo = separate(index, config)
        ppo.iterate()
        assert relative(ours.policy(index), ppo.policy) < 1e-6
        for mine, other in zip(
            ours.policy(index).parameters(), ppo.policy.parameters(), strict=True
        ):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_a_stack_of_one():
    ours, ppo = stacked(indices=(1,)), separate(1)
    for _ in range(2):
        (found,) = ours.iterate()
        assert_equal_iterations(found, ppo.iterate(), rtol=1e-3, atol=1e-4)
    assert relative(ours.policy(0), ppo.policy) < 1e-4


def test_stacked_ants_equal_separate_ones():
    pytest.importorskip("pybullet", reason="Bullet is not installed")
    from plasticity.tasks.control.ant.bullet import SlipperyAntBulletEnv
    from plasticity.tasks.vector.environments import VectorEnvironments

    def ants(seed):
        return [lambda: SlipperyAntBulletEnv(task_seed=seed, change_every=100)] * 4

    config = replace(SMALL, rollout_steps=96, minibatch_size=32)
    every = VectorEnvironments([*ants(1), *ants(2)])
    envs = HostEnvironments(every, seeds_of_all((1, 2)))
    ours = StackedPPO(envs, config, ACTORS[:2], CRITICS[:2], seeds=(1, 2))
    found = ours.iterate()
    for index, seed in enumerate((1, 2)):
        single = VectorEnvironments(ants(seed))
        ppo = PPO(single, config, ACTORS[index], CRITICS[index], seed=seed)
        expected = ppo.iterate()
        close = {"rtol": 1e-3, "atol": 1e-3}
        assert_close(ours.observations(index), ppo.observations, **close)
        assert_equal_iterations(found[index], expected, **close)
        assert relative(ours.policy(index), ppo.policy) < 1e-3
        single.close()
    envs.close()


# ---- diverged and frozen agents -------------------------------------------------------------------


@torch.no_grad()
def spoil(ours, index, network="critic"):
    ours.policies.parameters[f"{network}.fc1.weight"][index, 0] = torch.inf


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.parametrize("options", ["plain", "clipped", "normalized", "target-kl"])
def test_an_agent_that_diverges_does_not_affect_the_others(options, network):
    """Even if an actor's means are nan, the environments, which reject such actions, never get nan."""
    config = replace(SMALL, **OPTIONS[options])
    ours, untouched = stacked(config), stacked(config)
    assert ours.iterate() == untouched.iterate()
    spoil(ours, 1, network)
    for diverged_now in (True, False):
        found, expected = ours.iterate(), untouched.iterate()
        assert [iteration.diverged for iteration in found] == [False, True, False]
        assert [found[0], found[2]] == [expected[0], expected[2]]
        assert bool(found[1].episodes) == diverged_now
    assert all(math.isnan(number) for number in found[1].statistics.values())
    for index in (0, 2):
        assert_close(ours.state_dict(index), untouched.state_dict(index), rtol=0.0, atol=0.0)
    assert ours.num_steps == [144, 96, 144]
    state = ours.state_dict(1)
    assert (state["diverged"], state["num_steps"]) == (True, 96)


def test_a_frozen_agent_does_not_change():
    ours, untouched = stacked(), stacked()
    ours.iterate()
    untouched.iterate()
    ours.freeze(0)
    state = ours.state_dict(0)
    weights = ours.policies.state_dict(0)
    expected = untouched.iterate()
    found = ours.iterate()
    assert found[1:] == expected[1:]
    assert (found[0].diverged, found[0].episodes) == (False, ())
    assert_close(ours.state_dict(0), state, rtol=0.0, atol=0.0)
    assert_close(ours.policies.state_dict(0), weights, rtol=0.0, atol=0.0)
    with pytest.raises(RuntimeError, match="Stacked agent 0 is frozen: make a new"):
        ours.load_state_dict(0, state)
    ours.freeze(0)
    ours.freeze(1)
    ours.freeze(2)
    with pytest.raises(
        RuntimeError, match="All 3 stacked agents diverged or were frozen: make a new"
    ):
        ours.iterate()


# ---- continuing --------------------------------------------------------------------------------

FULL = replace(
    SMALL,
    learning_rate_schedule="linear",
    total_steps=480,
    max_gradient_norm=0.5,
    normalize_observations=True,
    normalize_rewards=True,
    normalize_advantages="minibatch",
)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def own(state, index):
    return {name: part[index * EACH : (index + 1) * EACH] for name, part in state.items()}


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("done", [0, 2])
def test_continues_bit_for_bit(config, done):
    straight = stacked(config)
    for _ in range(done):
        straight.iterate()
    states = [saved(straight.state_dict(index)) for index in range(3)]
    environments = saved(straight.envs.state_dict()) if done else None
    expected = [straight.iterate() for _ in range(2)]
    resumed = stacked(config)
    for index, state in enumerate(states):
        resumed.load_state_dict(index, state)
    if done:
        resumed.envs.load_state_dict(environments)
    assert resumed.num_steps == [48 * done] * 3
    assert [resumed.iterate() for _ in range(2)] == expected
    for index in range(3):
        assert_close(resumed.state_dict(index), straight.state_dict(index), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
def test_a_run_continues_separately_or_in_another_stack(config, float64):
    straight = stacked(config)
    straight.iterate()
    states = [saved(straight.state_dict(index)) for index in range(3)]
    environments = [own(saved(straight.envs.state_dict()), index) for index in range(3)]
    expected = [straight.iterate() for _ in range(2)]
    ppo = separate(2, config)
    ppo.envs.reset(seed=environment_seeds(SEEDS[2], EACH))
    ppo.envs.toy.load_state_dict(environments[2])
    ppo.load_state_dict(copy.deepcopy(states[2]))  # torch's optimizers keep using its tensors
    for iterations in expected:
        assert_equal_iterations(ppo.iterate(), iterations[2], rtol=1e-9, atol=1e-10)
    reordered = stacked(config, indices=(2, 0))
    reordered.envs.reset()
    reordered.envs.load_state_dict(
        {name: torch.cat([environments[i][name] for i in (2, 0)]) for name in environments[0]}
    )
    for position, index in enumerate((2, 0)):
        reordered.load_state_dict(position, states[index])
    for iterations in expected:
        found = reordered.iterate()
        for position, index in enumerate((2, 0)):
            assert_equal_iterations(found[position], iterations[index], rtol=1e-9, atol=1e-10)


def test_a_separate_run_joins_a_stack(float64):
    """A stacked agent continues from a state of `PPO`."""
    ppo = separate(1, FULL)
    ppo.iterate()
    joined = stacked(FULL, indices=(1,))
    joined.envs.reset()
    joined.envs.load_state_dict(ppo.envs.toy.state_dict())
    joined.load_state_dict(0, saved(ppo.state_dict()))
    assert_equal_iterations(joined.iterate()[0], ppo.iterate(), rtol=1e-9, atol=1e-10)


def test_a_diverged_state_is_loaded_frozen():
    ours = stacked()
    spoil(ours, 1)
    ours.iterate()
    again = stacked()
    for index in range(3):
        again.load_state_dict(index, ours.state_dict(index))
    again.envs.reset()
    again.envs.load_state_dict(ours.envs.state_dict())
    assert again.iterate()[1].diverged
    assert again.num_steps == [96, 48, 96]


def test_a_state_that_does_not_fit_is_rejected_and_changes_nothing():
    ours = stacked()
    ours.iterate()
    before = ours.state_dict(0)
    state = ours.state_dict(1)
    with pytest.raises(ValueError, match="actor_optimizer: regularizer='weight-decay'"):
        ours.load_state_dict(0, state)
    with pytest.raises(ValueError, match="The state has no 'policy'"):
        ours.load_state_dict(0, {key: part for key, part in before.items() if key != "policy"})
    assert_close(ours.state_dict(0), before, rtol=0.0, atol=0.0)
    with pytest.raises(IndexError, match="is out of range"):
        ours.state_dict(3)
    fresh = stacked()
    fresh.load_state_dict(0, before)
    with pytest.raises(RuntimeError, match=r"others have not \(agents \[1, 2\]\)"):
        fresh.iterate()


# ---- waiting for the device ----------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_neither_a_rollout_nor_its_update_waits(options, never_waits):
    ours = stacked(replace(SMALL, **OPTIONS[options]))
    ours.iterate()
    with never_waits():
        ours.collect()
        batch, _ = evaluate(ours._rollout, ours.policies, ours.config)
        ours.policies.update(batch, ours._draws.data_orders(), [1e-3] * 3)


def test_two_blocks_are_sent_to_the_device_and_nothing_waits_until_the_end(crossings, monkeypatch):
    config = replace(SMALL, target_kl=0.1, max_gradient_norm=1.0, normalize_observations=True)
    ours = stacked(config, device="meta")
    crossings.into.clear()
    ours.collect()
    assert crossings.into == [(3, 12, 4, 2)]  # the noise
    crossings.into.clear()
    monkeypatch.setattr(ours, "_read", lambda *arguments: [])
    monkeypatch.setattr(ours.envs, "check", lambda: None)
    ours.update()
    assert crossings.into == [(3, 2, 48)]  # the data orders
    # rewards, deaths, time limits, tasks, frictions
    assert crossings.out == [(12, 12)] * 3 + [(13, 12)] * 2


# ---- captured --------------------------------------------------------------------------------------

CAPTURED = [name for name in OPTIONS if name != "target-kl"]  # PPOConfig cannot compile target_kl


def compare_with_eager(options, device):
    config = replace(SMALL, **OPTIONS[options])
    eager, captured = (
        stacked(replace(config, compile=compile), device=device) for compile in (False, True)
    )
    for iteration in range(8):
        if iteration == 4:
            captured.load_state_dict(0, captured.state_dict(0))
        if iteration == 6:
            spoil(captured, 1)
            spoil(eager, 1)
        for found, expected in zip(captured.iterate(), eager.iterate(), strict=True):
            assert_equal_iterations(found, expected, rtol=1e-9, atol=1e-10)
    for index in (0, 2):
        found, expected = (ours.policies.state_dict(index) for ours in (captured, eager))
        assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", CAPTURED)
def test_captured_and_eager_agree(options, float64, cuda_graphs_on_cpu):
    compare_with_eager(options, "cpu")
    assert len(cuda_graphs_on_cpu) == 4  # acting and an epoch, and both again after loading


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (1, 2)}, "2 seeds, 3 actors' and 3 critics'"),
        ({"seeds": ()}, "0 seeds"),
        ({"device": "meta"}, "environments are on cpu, but the learner should be on meta"),
        (
            {"config": replace(SMALL, compile=True)},
            "needs a CUDA device, not cpu: leave out compile",
        ),
        ({"config": replace(SMALL, rollout_steps=6, minibatch_size=2)}, "not a multiple of an"),
        ({"envs": Toy([1, 2, 3, 4])}, "4 environments cannot be shared by 3"),
        ({"envs": Toy([1, 2])}, "2 environments cannot be shared by 3"),
    ],
)
def test_wrong_arguments(settings, message):
    given = {"envs": Toy(range(12)), "config": SMALL, "seeds": SEEDS} | settings
    envs, config = given.pop("envs"), given.pop("config")
    with pytest.raises(ValueError, match=message):
        StackedPPO(envs, config, ACTORS, CRITICS, **given)


def test_there_is_no_update_without_a_rollout_or_after_an_interruption(monkeypatch):
    ours = stacked()
    with pytest.raises(RuntimeError, match="no complete rollout to learn from: call collect"):
        ours.update()
    ours.iterate()

    def interrupt(rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(ours.policies._actor, "begin_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ours.iterate()
    for forbidden in (ours.iterate, ours.update, lambda: ours.state_dict(0)):
        with pytest.raises(RuntimeError, match=r"was interrupted within an update.*load the last"):
            forbidden()


def test_an_error_on_the_device_stops_the_run(monkeypatch):
    ours = stacked()

    def check():
        raise RuntimeError("too few contacts")

    monkeypatch.setattr(ours.envs, "check", check)
    with pytest.raises(RuntimeError, match="too few contacts"):
        ours.iterate()
    with pytest.raises(RuntimeError, match="or the environments failed during it"):
        ours.state_dict(0)


# ---- on a GPU ------------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


@on_a_gpu
@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_gpu_gives_the_same_results(options, host, float64):
    config = replace(SMALL, **OPTIONS[options])
    there, here = stacked(config, host=host, device="cuda"), stacked(config)
    for _ in range(2):
        for found, expected in zip(there.iterate(), here.iterate(), strict=True):
            assert_equal_iterations(found, expected, rtol=1e-7, atol=1e-8)


@on_a_gpu
@pytest.mark.parametrize("options", CAPTURED)
def test_captured_and_eager_agree_on_a_gpu(options, float64):
    compare_with_eager(options, "cuda")


@on_a_gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_rollout_never_waits_on_a_gpu(compile):
    ours = stacked(replace(FULL, compile=compile), device="cuda")
    for _ in range(5):  # past the captures
        ours.iterate()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours.collect()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
def test_a_run_continues_on_another_device(float64):
    straight = stacked(FULL)
    straight.iterate()
    resumed = stacked(FULL, device="cuda")
    resumed.envs.reset()
    resumed.envs.load_state_dict(straight.envs.state_dict())
    for index in range(3):
        resumed.load_state_dict(index, saved(straight.state_dict(index)))
    for found, expected in zip(resumed.iterate(), straight.iterate(), strict=True):
        assert_equal_iterations(found, expected, rtol=1e-7, atol=1e-8)
