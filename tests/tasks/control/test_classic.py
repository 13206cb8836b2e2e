"""Classic control that changes: the physics by hand, Gymnasium's own, tasks, offsets, states, and runs."""

import json
import math
import pickle
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from scipy import stats

from plasticity.agents.ppo.config import PPOConfig
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner
from plasticity.tasks.control.classic import (
    DYNAMICS,
    ClassicControl,
    ClassicControlConfig,
    ClassicControlEnv,
    classic_task,
)

KINDS = [
    ("cartpole", "physics"),
    ("pendulum", "physics"),
    ("cartpole", "observations"),
    ("acrobot", "observations"),
    ("mountaincar", "observations"),
    ("lunarlander", "observations"),
]
IDS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "mountaincar": "MountainCar-v0",
    "lunarlander": "LunarLander-v3",
}
STREAM = {"task_seed": 5, "num_tasks": 4, "change_every": 60}


@pytest.fixture(autouse=True)
def _packages(request):
    """Skip the lunar lander where Box2D is missing."""
    given = getattr(request.node, "callspec", None)
    if given is not None and "lunarlander" in str(given.params.values()):
        for package in ("Box2D", "pygame"):
            pytest.importorskip(package, reason="needs Box2D: pip install 'plasticity[box2d]'")


def actions_of(env, seed, number):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(number)]


def rollout(env, actions):
    seen = []
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def state_of(env, state):
    """Put an environment into a state, at the start of an episode."""
    env.reset(seed=0)
    env._env.state = np.array(state, np.float64)
    return env


# ---- physics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_task_0_is_gymnasiums_own_environment_step_by_step(name, changes):
    ours = ClassicControlEnv(name, changes, task_seed=1, change_every=10**6)
    theirs = gymnasium.make(IDS[name])
    assert equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0], exact=True)
    ends = set()
    for action in actions_of(theirs, 0, 1100):
        found, expected = ours.step(action), theirs.step(action)
        assert all(map(np.array_equal, found[:4], expected[:4]))
        ends.add(found[2:4])
        if found[2] or found[3]:
            assert equal(ours.reset()[0], theirs.reset()[0], exact=True)
    # At random, a pole falls and a lander crashes, while the others reach their time limit.
    assert ((True, False) if name in ("cartpole", "lunarlander") else (False, True)) in ends


def test_a_cartpole_of_other_physics_by_hand():
    """Compare with the equations of Florian (2007), from rest at an angle, with the force to the right.

    Gravity 20 m/s², half length 2 m, force 5 N, masses 1 kg and 0.1 kg, and an angle of 0.1 rad:
    pushed = 5 / 1.1; the angle's acceleration is
    (20 sin 0.1 - cos 0.1 pushed) / (2 (4/3 - 0.1 cos² 0.1 / 1.1)) = -2.5261 / 2.4867 = -1.0159,
    and that of the cart pushed - 0.1 * 2 * (the angle's) cos 0.1 / 1.1.
    """
    env = ClassicControlEnv("cartpole", values={"gravity": 20, "half_length": 2, "force": 5})
    state_of(env, [0, 0, 0.1, 0]).step(1)
    pushed = 5 / 1.1
    angular = (20 * math.sin(0.1) - math.cos(0.1) * pushed) / (
        2 * (4 / 3 - 0.1 * math.cos(0.1) ** 2 / 1.1)
    )
    assert angular == pytest.approx(-1.0159, abs=1e-4)
    linear = pushed - 0.2 * angular * math.cos(0.1) / 1.1
    # After one step of 20 ms (Euler): positions as they were, velocities the accelerations times 0.02.
    np.testing.assert_allclose(env._env.state, [0, 0.02 * linear, 0.1, 0.02 * angular], rtol=1e-12)


def test_a_pendulum_of_other_physics_by_hand():
    """Compare with theta'' = 3 g / (2 l) sin theta + 3 u / (m l²).

    Gravity 6, length 0.8, mass 1.25, angle 0.5 rad, torque 1: 11.25 sin 0.5 + 3 / 0.8 = 9.1435.
    """
    env = ClassicControlEnv("pendulum", values={"gravity": 6, "length": 0.8, "mass": 1.25})
    _, reward, *_ = state_of(env, [0.5, 0]).step(np.array([1.0]))
    acceleration = 11.25 * math.sin(0.5) + 3 / 0.8
    velocity = 0.05 * acceleration  # semi-implicit: the angle moves with the new velocity
    np.testing.assert_allclose(env._env.state, [0.5 + 0.05 * velocity, velocity], rtol=1e-12)
    assert reward == pytest.approx(-(0.25 + 0.001))


@pytest.mark.parametrize(("name", "action"), [("cartpole", None), ("pendulum", np.zeros(1))])
def test_heavier_gravity_falls_faster(name, action):
    """Let a pole fall from 0.05 rad: the time to 0.2 rad goes with the root of gravity."""
    steps = []
    for gravity in (2.0, 8.0):
        env = ClassicControlEnv(name, values={"gravity": gravity})
        state_of(env, [0, 0, 0.05, 0] if name == "cartpole" else [0.05, 0])
        if name == "cartpole":
            env._env.force_mag = 0.0  # it falls by itself
        angle = 2 if name == "cartpole" else 0
        for step in range(200):
            if env._env.state[angle] > 0.2:
                steps.append(step)
                break
            env.step(1 if action is None else action)
    slow, fast = steps
    assert slow / fast == pytest.approx(2.0, rel=0.1)


# ---- tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_a_task_is_a_function_of_seed_and_index(name, changes):
    stream = ClassicControl(5, 7, name, changes)
    assert [stream[k] for k in (4, 2, 0)] == [classic_task(name, changes, 7, k) for k in (4, 2, 0)]
    assert stream.describe(3) == ClassicControl(9, 7, name, changes).describe(3)
    assert stream.describe(3) != stream.describe(4)
    assert stream.describe(3) != ClassicControl(5, 8, name, changes).describe(3)
    with pytest.raises(IndexError, match="tasks 0 to 4: 5"):
        stream[5]


def test_tasks_are_pinned():
    """Check pinned values: with another stream, runs of different versions could not be compared."""
    assert classic_task("cartpole", "physics", 0, 0).values() == dict(DYNAMICS["cartpole"].stock)
    assert classic_task("cartpole", "physics", 0, 1).values() == PINNED_PHYSICS
    assert classic_task("cartpole", "observations", 0, 1).values() == PINNED_OFFSET


PINNED_PHYSICS = {"gravity": 12.5163, "half_length": 0.414361, "force": 11.6759}
PINNED_OFFSET = {
    "offset_0": 0.919749,
    "offset_1": -1.39345,
    "offset_2": 0.567838,
    "offset_3": -0.387939,
}


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_physics_are_log_uniform(name):
    tasks = [classic_task(name, "physics", 0, index).values() for index in range(1, 1500)]
    for quantity, (lowest, highest) in DYNAMICS[name].ranges.items():
        drawn = [task[quantity] for task in tasks]
        assert stats.kstest(drawn, stats.loguniform(lowest, highest).cdf).pvalue > 0.01
        assert lowest <= DYNAMICS[name].stock[quantity] <= highest


def test_offsets_are_normal_with_a_deviation_of_2():
    tasks = [classic_task("acrobot", "observations", 0, k).values() for k in range(1, 500)]
    drawn = [offset for task in tasks for offset in task.values()]
    assert len(drawn) == 499 * 6
    assert stats.kstest(drawn, stats.norm(0, 2).cdf).pvalue > 0.01


def test_an_offset_is_added_to_every_observation():
    values = {"offset_0": 1.5, "offset_2": -3.0}
    env, plain = (
        ClassicControlEnv("cartpole", "observations", values),
        ClassicControlEnv("cartpole"),
    )
    offset = np.array([1.5, 0, -3.0, 0], np.float32)
    found, info = env.reset(seed=0)
    assert info == {"task": 0, "offset_0": 1.5, "offset_1": 0, "offset_2": -3.0, "offset_3": 0}
    np.testing.assert_array_equal(found, plain.reset(seed=0)[0] + offset)
    for action in (1, 0, 1):
        ours, expected = env.step(action), plain.step(action)
        np.testing.assert_array_equal(ours[0], expected[0] + offset)
        assert ours[1:4] == expected[1:4]


def test_the_physics_change_at_the_first_reset_after_the_interval():
    env = ClassicControlEnv("cartpole", **STREAM)
    env.reset(seed=0)
    task, seen = 0, set()
    for steps, action in enumerate(actions_of(env, 0, 400), start=1):
        assert env._env.gravity == classic_task("cartpole", "physics", 5, task).values()["gravity"]
        *_, terminated, truncated, info = env.step(action)
        assert info == {"task": task, **classic_task("cartpole", "physics", 5, task).values()}
        seen.add((task, steps // 60))
        if terminated or truncated:
            task = min(steps // 60, 3)
            env.reset()
    assert any(index < due for index, due in seen)  # an episode continued past a change
    assert task == 3


# ---- Gymnasium --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_gymnasiums_checker_passes(name, changes):
    env = ClassicControlEnv(name, changes, **STREAM)
    with warnings.catch_warnings():
        # Of Gymnasium's own spaces: velocities without bounds, torques beyond 1.
        warnings.filterwarnings(
            "ignore", ".*(observation space m(ax|in)imum value|action spaces, we)"
        )
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("name", ["CartPole", "Pendulum"])
def test_an_id_works_with_its_module(name):
    module = "plasticity.tasks.control.classic"
    made = gymnasium.make(f"{module}:plasticity/Continual{name}-v0", **STREAM)
    direct = ClassicControlEnv(name.lower(), **STREAM)
    assert made.spec.max_episode_steps == direct.max_episode_steps
    assert equal(made.reset(seed=1), direct.reset(seed=1), exact=True)


def test_pictures():
    pytest.importorskip("pygame", reason='needs pygame: pip install "gymnasium[classic-control]"')
    for name, changes in KINDS:
        if name == "lunarlander":
            pytest.importorskip("Box2D", reason="needs Box2D: pip install 'plasticity[box2d]'")
        env = ClassicControlEnv(name, changes, render_mode="rgb_array")
        env.reset(seed=0)
        env.step(env.action_space.sample())
        picture = env.render()
        assert picture.ndim == 3
        assert picture.std() > 5
        env.close()


def test_without_pygame_the_remedy_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs pygame.*gymnasium\[classic-control\]"):
        ClassicControlEnv("cartpole", render_mode="rgb_array")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cartpol",), ValueError, "Unknown environment 'cartpol'. Did you mean 'cartpole'?"),
        (("cartpole", "physic"), ValueError, "Unknown changes 'physic'. Did you mean 'physics'?"),
        (("acrobot",), ValueError, "The physics of acrobot cannot change"),
        (("lunarlander",), ValueError, "The physics of lunarlander cannot change"),
        (
            ("mountaincar", "observations", {"offset_2": 1.0}),
            ValueError,
            "Unknown value 'offset_2'",
        ),
        (("pendulum", "physics", {"gravty": 1}), ValueError, "Did you mean 'gravity'?"),
        (("pendulum", "physics", {"gravity": 0}), ValueError, "gravity must be a finite number of"),
        (("pendulum", "physics", {"mass": "heavy"}), TypeError, "mass must be a number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        ClassicControlEnv(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "action"),
    [("cartpole", 2), ("cartpole", 0.5), ("pendulum", [1.0, 2.0]), ("pendulum", [math.nan])],
)
def test_wrong_actions_are_refused(name, action):
    env = ClassicControlEnv(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="The action must be"):
        env.step(action)


def test_a_time_limit_of_its_own():
    """Let an acrobot hang: it reaches the limit, of 400 steps as in C-CHAIN, instead of Gymnasium's 500."""
    env = ClassicControlEnv("acrobot", "observations", max_episode_steps=400)
    env.reset(seed=0)
    ends = [env.step(1)[2:4] for _ in range(400)]
    assert ends == [(False, False)] * 399 + [(False, True)]
    assert pickle.loads(pickle.dumps(env)).max_episode_steps == 400
    config = ClassicControlConfig(
        environment="acrobot",
        changes="observations",
        max_episode_steps=300,
        num_steps=100,
        change_every=80,
    )
    assert config.make_env(task_seed=0, change_every=1).max_episode_steps == 300
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="max_episode_steps must be"):
            ClassicControlEnv("acrobot", "observations", max_episode_steps=wrong)
        with pytest.raises(error, match="max_episode_steps must be"):
            with_values(config, {"max_episode_steps": wrong})


# ---- continuing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_after", [0, 1, 100, 250])
@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_a_resumed_environment_equals_an_uninterrupted_one(name, changes, saved_after):
    stream = STREAM | {"change_every": 150}
    env = ClassicControlEnv(name, changes, **stream)
    env.reset(seed=2)
    actions = actions_of(env, 0, 700)
    rollout(env, actions[:saved_after])
    saved = pickle.dumps(env.state_dict())
    twin = pickle.loads(pickle.dumps(env))
    expected = rollout(env, actions[saved_after:])
    assert expected[-1][-1]["task"] > 0
    other = ClassicControlEnv(name, changes, **stream)
    other.load_state_dict(pickle.loads(saved))
    for each in (other, twin):
        assert equal(rollout(each, actions[saved_after:]), expected, exact=True)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(name):
    """Return a short run of a benchmark, in which the task changes twice."""
    config = BENCHMARKS[name].config
    return with_values(
        config,
        {
            "seed": 3,
            "stream.num_steps": 1536,
            "stream.change_every": 512,
            "stream.num_envs": 4,
            "agent": PPOConfig(hidden=(16,), rollout_steps=128, minibatch_size=64, epochs=2),
            "tracking.measure_every": 256,
            "tracking.metrics": ("effective_rank", "weight_norm"),
        },
    )


def train(path, config, calls=None):
    count = iter(range(10**9 if calls is None else calls))
    with RunFolder(path, config) as folder:
        return Runner([folder]).execute(lambda: next(count, None) is None)


# With two cores, the rest is in two processes.
@pytest.mark.parametrize(
    ("name", "cores"),
    [
        ("continual-cartpole", 2),
        ("continual-pendulum", 1),
        ("offset-cartpole", 1),
        ("offset-mountaincar", 1),
        ("offset-lunarlander", 1),
    ],
)
def test_a_stopped_run_continues_to_the_byte(tmp_path, one_thread, name, cores):
    config = small(name)
    assert train(tmp_path / "whole", config)
    assert not train(tmp_path / "stopped", config, calls=5)
    assert train(tmp_path / "stopped", with_values(config, {"stream.cores": cores}))
    for file in ("metrics.jsonl", "episodes.jsonl"):
        whole, stopped = ((tmp_path / run / file).read_bytes() for run in ("whole", "stopped"))
        assert whole
        assert stopped == whole
    rows = [
        json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    ]
    assert {row["task"] for row in rows} >= {0, 1}
    for row in rows:
        assert config.stream.described
        for key in config.stream.described:
            assert isinstance(row[key], float)


def test_the_family_says_what_its_runs_need():
    config = ClassicControlConfig(
        environment="cartpole", changes="physics", num_steps=100, change_every=80
    )
    assert config.described == ("gravity", "half_length", "force")
    assert config.view.steps_per_frame * config.view.step_seconds == pytest.approx(0.04)
    config.require_installed()
    with pytest.raises(ValueError, match="The physics of acrobot cannot change"):
        ClassicControlConfig(
            environment="acrobot", changes="physics", num_steps=100, change_every=80
        )
