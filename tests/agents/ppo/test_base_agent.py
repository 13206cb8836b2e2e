"""One agent and stacked ones: compared with each other, continued, frozen, captured, and never waiting."""

import copy
import io
import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plasticity.agents.ppo.agent import PPO, StackedPPO
from plasticity.agents.ppo.base_agent import Iteration
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.environments import environment_seeds
from plasticity.agents.ppo.host_environments import HostEnvironments, HostStep
from plasticity.mitigations import L2Init, Syre, WeightDecay

EACH = 4  # environments of an agent
SEEDS = (3, 11, 2**40)
ACTORS = (
    (Syre(strength=1e-2, sigma=0.3),),
    (WeightDecay(strength=1e-2),),
    (L2Init(strength=1e-1),),
)
CRITICS = (
    (Syre(strength=0.5, sigma=0.1, anisotropy=0.2),),
    (),
    (Syre(strength=1e-3, sigma=1.0),),
)
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

    observation_size, action_size, discrete, limit = 3, 2, False, 7

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
        return {"task": self.toy.tasks.numpy()}

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


def stacked(config=SMALL, indices=(0, 1, 2), *, host=False, device="cpu"):
    seeds = [SEEDS[i] for i in indices]
    every = seeds_of_all(seeds)
    envs = HostEnvironments(ToyVector(len(every)), every, device) if host else Toy(every, device)
    return StackedPPO(
        envs, config, [ACTORS[i] for i in indices], [CRITICS[i] for i in indices], seeds=seeds
    )


def separate(index, config=SMALL, *, host=True, device="cpu"):
    envs = ToyVector() if host else Toy(seeds_of_all([SEEDS[index]]), device)
    given = {"seed": SEEDS[index], "device": device}
    return PPO(envs, config, ACTORS[index], CRITICS[index], **given)


def make(form, config=SMALL, *, device="cpu"):
    """Make an agent of each form, in environments on the device, or on the host in the form "host"."""
    if form == "stacked":
        return stacked(config, device=device)
    return separate(0, config, host=form == "host", device=device)


both_forms = pytest.mark.parametrize("form", ["single", "stacked"])


def listed(iterations):
    return iterations if isinstance(iterations, list) else [iterations]


def states_of(agent):
    return [saved(agent.state_dict(index)) for index in range(len(agent._diverged))]


def load(agent, states):
    for index, state in enumerate(states):
        agent.load_state_dict(state, index)


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
    for name in ("num_steps", "task", "diverged"):
        assert getattr(found, name) == getattr(expected, name)
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
        "initialization": "orthogonal",
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
            assert_close(ours.observations[index], ppo.observations, rtol=1e-9, atol=1e-10)
    for index, ppo in enumerate(theirs):
        assert_close(ours.state_dict(index), ppo.state_dict(), rtol=1e-9, atol=1e-10)


def carts(seeds):
    """CartPoles with time limits, by seed of the agent."""
    count = EACH * len(seeds)
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make("CartPole-v1", max_episode_steps=15)] * count,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    return HostEnvironments(envs, seeds_of_all(seeds))


@pytest.mark.parametrize("options", ["minibatch", "normalized", "target-kl"])
def test_discrete_actions_are_learned_the_same_in_a_stack(options, float64):
    config = replace(SMALL, rollout_steps=96, **OPTIONS[options])
    ours = StackedPPO(carts(SEEDS), config, ACTORS, CRITICS, seeds=SEEDS)
    theirs = [
        PPO(carts([seed]).envs, config, actor, critic, seed=seed)
        for seed, actor, critic in zip(SEEDS, ACTORS, CRITICS, strict=True)
    ]
    for _ in range(3):
        found = ours.iterate()
        for index, ppo in enumerate(theirs):
            expected = ppo.iterate()
            assert expected.episodes
            assert_equal_iterations(found[index], expected, rtol=1e-9, atol=1e-10)
    for index, ppo in enumerate(theirs):
        assert_close(ours.state_dict(index), ppo.state_dict(), rtol=1e-9, atol=1e-10)


def test_the_environments_may_be_on_the_device_for_one_agent(float64):
    """One agent takes `Environments` as well as a vector environment."""
    for _ in range(2):
        found, expected = (separate(1, FULL, host=host).iterate() for host in (False, True))
        assert_equal_iterations(found, expected, rtol=1e-9, atol=1e-10)


def test_the_options_have_an_effect(float64):
    """Without an effect, the tests above would compare nothing."""
    stopped, full = stacked(replace(SMALL, target_kl=0.02)), stacked(SMALL)
    stopped.iterate()
    full.iterate()
    steps = [state["actor_optimizer"]["state"][0]["step"] for state in states_of(stopped)]
    assert len(set(steps)) > 1
    assert min(steps) < 6  # 2 epochs of 3 minibatches
    assert states_of(full)[0]["actor_optimizer"]["state"][0]["step"] == 6
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
        assert_close(ours.observations[index], ppo.observations, **close)
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
    weights = ours.networks.state_dict(0)
    expected = untouched.iterate()
    found = ours.iterate()
    assert found[1:] == expected[1:]
    assert (found[0].diverged, found[0].episodes) == (False, ())
    assert_close(ours.state_dict(0), state, rtol=0.0, atol=0.0)
    assert_close(ours.networks.state_dict(0), weights, rtol=0.0, atol=0.0)
    with pytest.raises(RuntimeError, match="Agent 0 is frozen: make a new StackedPPO"):
        ours.load_state_dict(state)
    ours.freeze(0)
    ours.freeze(1)
    ours.freeze(2)
    with pytest.raises(RuntimeError, match="No agent is left to train: 3 of 3 diverged"):
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


@pytest.mark.parametrize("form", ["host", "single", "stacked"])
@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("done", [0, 2])
def test_continues_bit_for_bit(form, config, done):
    straight = make(form, config)
    for _ in range(done):
        straight.iterate()
    states, resumed = states_of(straight), make(form, config)
    resumed.envs = copy.deepcopy(straight.envs)
    expected = [straight.iterate() for _ in range(2)]
    load(resumed, states)
    assert {state["num_steps"] for state in states_of(resumed)} == {48 * done}
    assert [resumed.iterate() for _ in range(2)] == expected
    assert_close(states_of(resumed), states_of(straight), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
def test_a_run_continues_separately_or_in_another_stack(config, float64):
    straight = stacked(config)
    straight.iterate()
    states = states_of(straight)
    environments = [own(saved(straight.envs.state_dict()), index) for index in range(3)]
    expected = [straight.iterate() for _ in range(2)]
    ppo = separate(2, config)
    ppo.envs.reset()
    ppo.envs.envs.toy.load_state_dict(environments[2])
    ppo.load_state_dict(copy.deepcopy(states[2]))  # torch's optimizers keep using its tensors
    for iterations in expected:
        assert_equal_iterations(ppo.iterate(), iterations[2], rtol=1e-9, atol=1e-10)
    reordered = stacked(config, indices=(2, 0))
    reordered.envs.reset()
    reordered.envs.load_state_dict(
        {name: torch.cat([environments[i][name] for i in (2, 0)]) for name in environments[0]}
    )
    for position, index in enumerate((2, 0)):
        reordered.load_state_dict(states[index], position)
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
    joined.envs.load_state_dict(ppo.envs.envs.toy.state_dict())
    joined.load_state_dict(saved(ppo.state_dict()))
    assert_equal_iterations(joined.iterate()[0], ppo.iterate(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("form", ["single", "host", "stacked"])
def test_mitigations_act_on_a_new_task_after_the_old_one_is_measured(form, saves, monkeypatch):
    agent = make(form)
    seen = []
    monkeypatch.setattr(agent.policies, "boundary", lambda task, index: seen.append((task, index)))
    tasks = [each.task for each in listed(agent.iterate())]  # 12 steps each: two ends of 7
    assert seen == []
    iterations = listed(agent.iterate())
    expected = [
        (now.task, index)
        for index, (old, now) in enumerate(zip(tasks, iterations, strict=True))
        if old is not None and now.task > old
    ]
    assert expected
    assert seen == []  # the rows of this iteration are of the tasks that ended
    if saves:
        states_of(agent)
    agent.collect()
    assert seen == expected


def test_a_diverged_state_is_loaded_frozen():
    ours = stacked()
    spoil(ours, 1)
    ours.iterate()
    again = stacked()
    load(again, states_of(ours))
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
        ours.load_state_dict(state)
    with pytest.raises(ValueError, match="The state has no 'policy'"):
        ours.load_state_dict({key: part for key, part in before.items() if key != "policy"})
    assert_close(ours.state_dict(0), before, rtol=0.0, atol=0.0)
    with pytest.raises(IndexError, match="is out of range"):
        ours.state_dict(3)
    fresh = stacked()
    fresh.load_state_dict(before)
    with pytest.raises(RuntimeError, match=r"others have not \(agents \[1, 2\]\)"):
        fresh.iterate()


# ---- waiting for the device ----------------------------------------------------------------------


# With a target KL, one agent's update waits at every minibatch.
@pytest.mark.parametrize(
    ("form", "options"),
    [("stacked", name) for name in OPTIONS]
    + [("single", name) for name in OPTIONS if name != "target-kl"],
)
def test_two_blocks_are_sent_to_the_device_and_nothing_waits_until_the_end(
    options, form, crossings, monkeypatch
):
    """The device "meta" has no numbers: whatever would read one, and so wait for it, is an error."""
    lead = (3,) if form == "stacked" else ()
    agent = make(form, replace(SMALL, **OPTIONS[options]), device="meta")
    nothing = Iteration(0, {}, (), None, False)
    monkeypatch.setattr(agent, "_read", lambda *arguments: [nothing])
    monkeypatch.setattr(agent.envs, "check", lambda: None)
    agent.iterate()  # anchors are drawn
    crossings.into.clear()
    crossings.out.clear()
    agent.collect()
    assert crossings.into == [(*lead, 12, 4, 2)]  # the noise
    assert crossings.out == []
    crossings.into.clear()
    agent.update()
    assert crossings.into == [(*lead, 2, 48)]  # the data orders
    # rewards, deaths, time limits, tasks
    assert crossings.out == [(*lead, 12, 4)] * 3 + [(*lead, 13, 4)]


# ---- captured --------------------------------------------------------------------------------------

CAPTURED = [name for name in OPTIONS if name != "target-kl"]  # PPOConfig cannot compile target_kl


def compare_with_eager(form, options, device):
    config = replace(SMALL, **OPTIONS[options])
    eager, captured = (
        make(form, replace(config, compile=compile), device=device) for compile in (False, True)
    )
    for iteration in range(8):
        if iteration == 4:
            captured.load_state_dict(captured.state_dict())
        if iteration == 6 and form == "stacked":
            spoil(captured, 1)
            spoil(eager, 1)
        for found, expected in zip(
            listed(captured.iterate()), listed(eager.iterate()), strict=True
        ):
            assert_equal_iterations(found, expected, rtol=1e-9, atol=1e-10)
    for found, expected in zip(states_of(captured)[::2], states_of(eager)[::2], strict=True):
        assert_close(found["policy"], expected["policy"], rtol=1e-9, atol=1e-10)


@both_forms
@pytest.mark.parametrize("options", CAPTURED)
def test_captured_and_eager_agree(form, options, float64, cuda_graphs_on_cpu):
    compare_with_eager(form, options, "cpu")
    assert len(cuda_graphs_on_cpu) == 4  # acting and the update, and both again after loading


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
        ({"config": replace(SMALL, rollout_steps=6, minibatch_size=2)}, "not a multiple of the 4"),
        ({"envs": Toy([1, 2, 3, 4])}, "4 environments cannot be shared by 3"),
        ({"envs": Toy([1, 2])}, "2 environments cannot be shared by 3"),
    ],
)
def test_wrong_arguments(settings, message):
    given = {"envs": Toy(range(12)), "config": SMALL, "seeds": SEEDS} | settings
    envs, config = given.pop("envs"), given.pop("config")
    with pytest.raises(ValueError, match=message):
        StackedPPO(envs, config, ACTORS, CRITICS, **given)


@both_forms
def test_there_is_no_update_without_a_rollout(form):
    agent = make(form)
    before = states_of(agent)
    with pytest.raises(RuntimeError, match="no complete rollout to learn from: call collect"):
        agent.update()
    assert_close(states_of(agent), before, rtol=0.0, atol=0.0)
    agent.iterate()
    load(agent, states_of(agent))  # a state has no rollout
    with pytest.raises(RuntimeError, match="no complete rollout"):
        agent.update()
    agent.collect()
    agent.update()
    states_of(agent)


@both_forms
def test_an_agent_with_an_interrupted_update_refuses_to_continue(form, monkeypatch):
    agent = make(form)
    agent.iterate()
    states, envs = states_of(agent), copy.deepcopy(agent.envs)
    expected = agent.iterate()

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(agent.policies, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            agent.iterate()
    agent.envs = envs
    for index, state in enumerate(states):
        for forbidden in (agent.state_dict, agent.iterate, agent.collect, agent.update):
            with pytest.raises(RuntimeError, match=r"interrupted within an update.*load the last"):
                forbidden()
        agent.load_state_dict(state, index)
    assert agent.iterate() == expected


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
@both_forms
@pytest.mark.parametrize("options", CAPTURED)
def test_captured_and_eager_agree_on_a_gpu(form, options, float64):
    compare_with_eager(form, options, "cuda")


@on_a_gpu
@both_forms
@pytest.mark.parametrize("compile", [False, True])
def test_a_rollout_never_waits_on_a_gpu(form, compile):
    agent = make(form, replace(FULL, compile=compile), device="cuda")
    for _ in range(5):  # past the captures
        agent.iterate()
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.collect()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@both_forms
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
def test_a_run_continues_on_another_device(form, config, devices, float64):
    straight, resumed = (make(form, config, device=device) for device in devices)
    straight.iterate()
    resumed.envs.reset()
    resumed.envs.load_state_dict(straight.envs.state_dict())
    load(resumed, states_of(straight))
    for found, expected in zip(listed(resumed.iterate()), listed(straight.iterate()), strict=True):
        assert_equal_iterations(found, expected, rtol=1e-7, atol=1e-8)


def test_rewards_are_scaled_before_they_are_learned_from_and_reported_as_they_are():
    """A scale of 1/4, which is exact, gives the numbers of environments whose rewards are a quarter."""

    class Quarter(Toy):
        def step(self, actions):
            step = super().step(actions)
            return step._replace(rewards=step.rewards / 4)

    def agent(kind, **settings):
        return PPO(kind(environment_seeds(3, EACH)), replace(SMALL, **settings), seed=3)

    scaled, smaller = agent(Toy, reward_scale=0.25), agent(Quarter)
    for _ in range(3):
        found, expected = scaled.iterate_all()[0], smaller.iterate_all()[0]
        assert found.statistics == expected.statistics
        for ours, theirs in zip(found.episodes, expected.episodes, strict=True):
            assert ours.episode_return == pytest.approx(4 * theirs.episode_return)
    assert found.episodes
