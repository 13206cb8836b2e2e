"""Ants of every engine, and humanoids: episodes, schedule, checkers, rendering, and saving and loading."""

import copy
import io
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from plasticity.tasks import (
    SlipperyAntBulletEnv,
    SlipperyAntMujocoEnv,
    SlipperyHumanoidEnv,
    task_friction,
)
from plasticity.tasks.control.humanoid import mujoco as humanoid_mujoco
from plasticity.tasks.control.slippery.environment import SlipperyEnv

STREAM = {"task_seed": 5, "num_tasks": 4, "change_every": 60}


def actions_of(seed, number, scale=1.0, joints=8):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (number, joints))).astype(np.float32)


def no_torque(env, number=None):
    """Return an action of zeros, or a number of them."""
    shape = env.action_space.shape
    return np.zeros(shape if number is None else (number, *shape))


# Sustained, it topples the ant after 80 to 90 steps. Without torque it falls after 20; at random, rarely.
TOPPLING = np.array([-1, 1, -1, -1, -1, -1, 1, -1], np.float32)


def toppled(seed, number):
    return TOPPLING * (1 - 0.1 * np.abs(actions_of(seed, number)))


JUMPING = np.array([-1, 1, -1, 1, -1, -1, -1, 1], np.float32)


def thrown(seed, number):
    """Return actions back and forth, every four steps: it jumps over 1 m after 8 steps or a few more."""
    to_and_fro = np.where(np.arange(number) // 4 % 2, 1, -1)[:, None] * JUMPING
    return (to_and_fro * (1 - 0.2 * np.abs(actions_of(seed, number)))).astype(np.float32)


@dataclass(frozen=True)
class Engine:
    """What differs between the tests of ants and humanoids."""

    env: type[SlipperyEnv]
    package: str
    name: str
    """In the environment's ID."""
    ended_by: Callable[[int, int], np.ndarray]
    """Actions that end episodes."""
    standing: np.ndarray
    """Actions that last for 1000 steps."""
    step_seconds: float
    record_window: Callable
    """Replace the window's update of an environment by a list's append."""
    other_arguments: dict
    """Arguments that only this engine has."""
    body: str = "Ant"
    joints: int = 8

    @property
    def id(self):
        return f"plasticity.tasks:plasticity/Slippery{self.body}{self.name}-v0"

    def actions(self, seed, number, scale=1.0):
        return actions_of(seed, number, scale, self.joints)


def record_bullet(env, seen):
    env._ant.follow = lambda: seen.append(True)


def record_mujoco(env, seen):
    env._pictures = types.SimpleNamespace(show=seen.append, close=lambda: None)


ENGINES = {
    "bullet": Engine(
        SlipperyAntBulletEnv,
        "pybullet",
        "Bullet",
        toppled,
        actions_of(0, 1000),
        0.0165,
        record_bullet,
        {},
    ),
    "mujoco": Engine(
        SlipperyAntMujocoEnv,
        "mujoco",
        "Mujoco",
        thrown,
        np.zeros((1000, 8)),
        0.05,
        record_mujoco,
        {"include_contact_forces": True},
    ),
    "humanoid": Engine(
        SlipperyHumanoidEnv,
        "mujoco",
        "",
        lambda seed, number: actions_of(seed, number, 0.4, 17),  # it falls after 20 to 30 steps
        actions_of(0, 1000, 0.4, 17),
        0.015,
        record_mujoco,
        {},
        "Humanoid",
        17,
    ),
}


@pytest.fixture(params=ENGINES)
def engine(request):
    pytest.importorskip(ENGINES[request.param].package)
    return ENGINES[request.param]


@pytest.fixture
def make(engine):
    """Return a factory whose environments are closed at the end of the test."""
    envs = []

    def make(*args, **kwargs):
        envs.append(engine.env(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


@pytest.fixture
def _can_draw(engine):
    try:
        engine.env(render_mode="rgb_array").close()
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")


def rollout(env, actions):
    """Step, resetting without a seed whenever an episode ends; return everything observed."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            seen.append(env.reset())
    return seen


# ---- episodes ----------------------------------------------------------------------------------------


def test_an_episode_has_no_history(engine, make):
    actions = engine.actions(0, 100)
    fresh, used = make(0.3), make(0.3)
    used.reset(seed=5)
    rollout(used, engine.actions(1, 500, 2.0))
    first = [fresh.reset(seed=3), *rollout(fresh, actions)]
    second = [used.reset(seed=3), *rollout(used, actions)]
    assert equal(first, second, exact=True)


def test_time_limit_after_1000_steps_without_a_wrapper(engine, make, monkeypatch):
    monkeypatch.setattr(humanoid_mujoco, "HEALTHY_HEIGHTS", (-9, 9))  # nothing makes it stand
    env = make()
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in engine.standing]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(no_torque(env))
    env.reset()
    env.step(no_torque(env))


def test_a_step_needs_a_reset(make):
    env = make()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(no_torque(env))


# ---- the schedule ------------------------------------------------------------------------------------


def test_the_friction_changes_at_the_first_episode_end_after_the_interval(engine, make):
    env = make(**STREAM)
    _, info = env.reset(seed=0)
    task, begun, seen = 0, 0, set()
    for steps, action in enumerate(engine.ended_by(0, 400), start=1):
        assert info == {"task": task, "friction": task_friction(5, task)}
        *_, terminated, truncated, info = env.step(action)
        assert info["task"] == task
        if terminated or truncated:
            seen.add((task, begun))
            begun = steps
            task = min(steps // 60, 3)
            _, info = env.reset()
    # An episode that began before a change continued past it.
    assert any(begun % 60 for _, begun in seen)
    assert task == 3


def test_a_seed_does_not_restart_the_schedule(make):
    env = make(task_seed=0, change_every=10)
    env.reset(seed=0)
    for _ in range(10):
        env.step(no_torque(env))
    assert env.reset(seed=0)[1]["task"] == 1


def test_the_scheduled_friction_is_the_one_in_the_simulator(engine, make):
    scheduled = make(task_seed=3, change_every=5)
    scheduled.reset(seed=0)
    for _ in range(5):
        scheduled.step(no_torque(scheduled))
    scheduled.reset(seed=9)
    fixed = make(task_friction(3, 1))
    fixed.reset(seed=9)
    for action in engine.actions(0, 60):
        ours, expected = scheduled.step(action), fixed.step(action)
        assert equal(ours[:-1], expected[:-1], exact=True)
        if ours[2]:
            break


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_wrong_arguments_are_refused(engine):
    with pytest.raises(ValueError, match="one or the other"):
        engine.env(0.5, task_seed=0, change_every=10)
    with pytest.raises(ValueError, match="task_seed and change_every"):
        engine.env(num_tasks=3)
    with pytest.raises(ValueError, match=r"rgb_array.*ansi"):
        engine.env(render_mode="ansi")


# ---- checkers and rendering --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [{}, {"task_seed": 1, "num_tasks": 5, "change_every": 1000}, None],
)
@pytest.mark.usefixtures("_can_draw")
def test_the_checkers_pass(engine, monkeypatch, arguments):
    if arguments is None:
        arguments = engine.other_arguments or pytest.skip("no arguments of its own")
    monkeypatch.delenv("DISPLAY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if engine.package == "mujoco":  # as in Gymnasium's, velocities have no bounds …
            warnings.filterwarnings("ignore", ".*observation space m(ax|in)imum value is")
        if engine.body == "Humanoid":  # … and a humanoid's controls are at most 0.4
            warnings.filterwarnings("ignore", ".*symmetric and normalized Box action space")
            warnings.filterwarnings("ignore", ".*action spaces, we recommend using")
        for env in (
            gymnasium.make(engine.id, **arguments),
            gymnasium.make(engine.id, **arguments).unwrapped,
        ):
            check_env_for_sb3(env)
            env.close()
        env = gymnasium.make(engine.id, render_mode="rgb_array", **arguments).unwrapped
        check_env(env)
        env.close()


def test_gymnasium_make(engine, make):
    env = gymnasium.make(engine.id, friction=0.1)
    assert env.spec.max_episode_steps == 1000
    env.reset(seed=4)
    direct = make(0.1)
    direct.reset(seed=4)
    for action in engine.actions(0, 12):
        assert equal(env.step(action), direct.step(action), exact=True)
    env.close()


@pytest.mark.usefixtures("_can_draw")
def test_rendering_changes_nothing(engine, make):
    drawn, plain = make(render_mode="rgb_array"), make()
    drawn.reset(seed=0), plain.reset(seed=0)
    for step, action in enumerate(engine.actions(0, 12)):
        assert equal(drawn.step(action), plain.step(action), exact=True)
        if step in (4, 8):
            frame = drawn.render()
            np.testing.assert_array_equal(frame, drawn.render())
            assert (frame.shape, frame.dtype) == ((240, 320, 3), np.uint8)
            assert frame.std() > 10
    assert plain.render() is None


def test_the_window_is_updated_in_real_time(engine, make, monkeypatch):
    env = make()
    env.reset(seed=0)
    env.render_mode = "human"  # a window cannot be opened here: its calls are recorded
    shown, slept = [], []
    engine.record_window(env, shown)
    monkeypatch.setattr("plasticity.tasks.control.environment.time.sleep", slept.append)
    monkeypatch.setattr("plasticity.tasks.control.environment.time.monotonic", lambda: 50.0)
    for _ in range(3):
        env.step(no_torque(env))
    assert len(shown) == 3
    assert slept == pytest.approx([0.0, engine.step_seconds, engine.step_seconds])
    assert env.render() is None


def test_a_closed_environment_raises_an_error(make):
    env = make()
    env.reset(seed=0)
    state = env.state_dict()
    env.close()
    env.close()
    for use in (
        lambda: env.step(no_torque(env)),
        env.reset,
        env.render,
        lambda: env.load_state_dict(state),
    ):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make a new one"):
            use()


# ---- continuing --------------------------------------------------------------------------------------


def continued(env, actions):
    return [*rollout(env, actions), env.state_dict()]


@pytest.mark.parametrize("saved_after", [0, 1, 59, 130, 199, 250])
def test_a_resumed_environment_equals_an_uninterrupted_one(engine, make, saved_after):
    """Resume across friction changes, in the middle of an episode and at its end."""
    actions = engine.ended_by(8, 400)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:saved_after])
    saved = copy.deepcopy(env.state_dict())
    expected = continued(env, actions[saved_after:])
    assert expected[-1]["task"] == 3
    other = make(**STREAM)
    other.reset(seed=77)
    rollout(other, engine.actions(1, 90))
    other.load_state_dict(saved)
    assert equal(other.state_dict(), saved, exact=True)
    assert equal(continued(other, actions[saved_after:]), expected, exact=True)


def test_continuing_in_a_fresh_process(engine, make, tmp_path):
    actions = engine.ended_by(8, 250)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:50])
    (tmp_path / "state").write_bytes(pickle.dumps(env.state_dict()))
    (tmp_path / "actions").write_bytes(pickle.dumps(actions[50:]))
    program = f"""
import pathlib, pickle, sys
from plasticity import tasks
folder = pathlib.Path(sys.argv[1])
env = tasks.{engine.env.__name__}(**{STREAM})
env.load_state_dict(pickle.loads((folder / "state").read_bytes()))
seen = []
for action in pickle.loads((folder / "actions").read_bytes()):
    seen.append(env.step(action))
    if seen[-1][2] or seen[-1][3]:
        seen.append(env.reset())
(folder / "seen").write_bytes(pickle.dumps([*seen, env.state_dict()]))
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    seen = pickle.loads((tmp_path / "seen").read_bytes())
    assert seen[-1]["task"] > 0
    assert equal(seen, continued(env, actions[50:]), exact=True)


@pytest.mark.parametrize("used", [False, True])
def test_loading_a_state_from_before_the_first_reset_clears_the_episode(make, used):
    env, other = make(**STREAM), make(**STREAM)
    env.np_random = np.random.Generator(np.random.PCG64(5))
    fresh = env.state_dict()
    if used:
        other.reset(seed=0)
        other.step(no_torque(other))
    other.load_state_dict(fresh)
    assert equal(other.state_dict(), fresh, exact=True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(no_torque(other))
    assert equal(other.reset(), env.reset(), exact=True)


def test_a_state_after_the_end_still_needs_a_reset(engine, make):
    env, other = make(), make()
    env.reset(seed=0)
    actions = iter(engine.ended_by(0, 200))
    while not env.step(next(actions))[2]:
        pass
    other.load_state_dict(env.state_dict())
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(no_torque(other))
    assert equal(other.reset(), env.reset(), exact=True)


def test_a_generator_used_elsewhere_is_restored_too(make):
    env, other = make(), make()
    env.reset(seed=0)
    env.np_random.random(3)
    other.load_state_dict(env.state_dict())
    assert other.np_random.random() == env.np_random.random()


def test_a_state_is_plain_and_a_copy(make):
    env = make(**STREAM)
    env.reset(seed=0)
    env.step(1 + no_torque(env))

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for entry in value.values() for leaf in leaves(entry)]
        return [value]

    state = env.state_dict()
    assert {type(leaf) for leaf in leaves(state)} == {int, bool, float, str, np.ndarray}
    kept = copy.deepcopy(state)
    env.step(no_torque(env))
    assert equal(state, kept, exact=True)


def test_a_state_of_another_schedule_is_refused_and_changes_nothing(make):
    env, other = make(**STREAM), make(0.8)
    env.reset(seed=0), other.reset(seed=0)
    before = other.state_dict()
    with pytest.raises(ValueError, match=r"task 0 with friction .* the arguments of the saved"):
        other.load_state_dict(env.state_dict())
    assert equal(other.state_dict(), before, exact=True)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda env: pickle.load(io.BytesIO(pickle.dumps(env)))]
)
def test_a_copy_is_independent(engine, make, copied):
    env = make(**STREAM, **engine.other_arguments)
    env.reset(seed=0)
    actions = engine.actions(0, 60)
    rollout(env, actions[:30])
    twin = copied(env)
    seen = rollout(twin, actions[30:])
    assert equal(seen, rollout(env, actions[30:]), exact=True)
    twin.close()
    env.reset()


def test_a_copy_of_a_subclass_with_its_own_arguments(engine):
    class Named(engine.env):
        def __init__(self, name):
            super().__init__(0.3)
            self.name = name

    env = Named("a")
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    assert equal(env.step(1 + no_torque(env)), twin.step(1 + no_torque(twin)), exact=True)
    env.close()
    twin.close()
