"""Chains in the suite: parity with dm_control, the change of the task, states, checkers, and bad inputs."""

import copy
import math
import pickle
import subprocess
import sys
import types
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal

from plasticity.tasks.control.dmc import environment as dmc_environment
from plasticity.tasks.control.dmc.chains import DOMAINS
from plasticity.tasks.control.dmc.environment import DMCChainEnv, import_suite

SIZES = {"walker": (24, 6), "quadruped": (78, 12), "dog": (223, 38)}
STREAM = {"task_seed": 0, "num_tasks": 4, "change_every": 50}


@pytest.fixture(scope="module")
def suite():
    try:
        return import_suite()[0]
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def make(suite):
    """Return a factory whose environments are closed at the end of the test."""
    envs = []

    def make(*args, **kwargs):
        envs.append(DMCChainEnv(*args, **kwargs))
        envs[-1].max_episode_steps = 40  # of the suite's 1000
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def actions_of(env, number, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (number, *env.action_space.shape))


def rollout(env, actions):
    seen = []
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


# ---- the suite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_task_is_the_suites_own_step_by_step(suite, make, domain):
    for name, speed in DOMAINS[domain].speeds.items():
        env = make(domain, target_speed=speed)
        observation, info = env.reset(seed=5)
        assert info == {"task": 0, "target_speed": speed}
        # The suite's generator is seeded by the first number of the environment's.
        seed = int(np.random.Generator(np.random.PCG64(5)).integers(2**32))
        theirs = suite.load(domain, name, {"random": seed})
        expected = theirs.reset().observation
        for action in actions_of(env, 25):
            flat = np.concatenate([np.ravel(part) for part in expected.values()])
            np.testing.assert_array_equal(observation, flat)
            observation, reward, terminated, truncated, _ = env.step(action)
            step = theirs.step(action)
            assert (reward, terminated, truncated) == (step.reward, False, False)
            expected = step.observation
        assert (observation.size, action.size) == SIZES[domain]
        assert theirs.control_timestep() == pytest.approx(DOMAINS[domain].step_seconds)
        theirs.close()


def test_the_speeds_are_the_suites(suite):
    from dm_control.suite import dog, quadruped, walker

    assert DOMAINS["walker"].speeds["walk"] == walker._WALK_SPEED
    assert DOMAINS["walker"].speeds["run"] == walker._RUN_SPEED
    assert DOMAINS["quadruped"].speeds["walk"] == quadruped._WALK_SPEED
    assert DOMAINS["quadruped"].speeds["run"] == quadruped._RUN_SPEED
    for name in ("walk", "trot", "run"):
        assert DOMAINS["dog"].speeds[name] == getattr(dog, f"_{name.upper()}_SPEED")


def test_an_episode_is_truncated_after_1000_steps_and_never_terminates(suite):
    env = DMCChainEnv("walker")
    env.reset(seed=0)
    ends = [env.step(np.zeros(6))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(6))
    env.reset()
    env.step(np.zeros(6))
    env.close()


def test_to_stand_and_to_run_are_rewarded_differently(make):
    rewards = []
    for speed in (0.0, 8.0):
        env = make("walker", target_speed=speed)
        env.reset(seed=0)
        rewards.append([env.step(action)[1] for action in actions_of(env, 20)])
    stand, run = np.array(rewards)
    # The reward of running is that of standing times a factor of at most 1, 1/6 at rest.
    assert (run <= stand).all()
    assert (run >= stand / 6 - 1e-12).all()
    assert run.sum() < stand.sum()


# ---- the chain ---------------------------------------------------------------------------------------


def test_the_task_changes_at_the_first_reset_after_the_interval(make):
    env = make("quadruped", **STREAM)
    _, info = env.reset(seed=0)
    seen = []
    for steps, action in enumerate(actions_of(env, 240), start=1):
        *_, truncated, info = env.step(action)
        seen.append(info["task"])
        assert info["target_speed"] == (0.5, 5.0, 0.5, 0.5)[info["task"]]
        assert env._loaded == ("walk", "run", "walk", "walk")[info["task"]]
        if truncated:
            _, info = env.reset()
            assert info["task"] == min(steps // 50, 3)
    # Episodes of 40 steps; changes are due at 50, 100 and 150 steps, and come at 80, 120 and 160.
    assert [seen.index(task) for task in range(4)] == [0, 80, 120, 160]


def test_the_observation_does_not_tell_the_task(make):
    """Begin the same episode in two tasks: their first observations are equal."""
    stand, run = make("walker", target_speed=0.0), make("walker", target_speed=8.0)
    assert equal(stand.reset(seed=3)[0], run.reset(seed=3)[0], exact=True)


# ---- Gymnasium ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_gymnasiums_checker_passes(suite, domain):
    env = DMCChainEnv(domain, **STREAM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As in the suite, observations have no bounds, and a quadruped's actions are not from -1 to 1.
        warnings.filterwarnings("ignore", ".*observation space m(ax|in)imum value is")
        warnings.filterwarnings("ignore", ".*action spaces, we recommend using")
        check_env(env, skip_render_check=True)
    env.close()


PICTURES = """
import numpy as np
from plasticity.tasks.control.dmc.environment import DMCChainEnv
plain = DMCChainEnv("walker")  # without OpenGL, which is loaded when it is needed
plain.reset(seed=0)
try:
    env = DMCChainEnv("walker", render_mode="rgb_array")
except RuntimeError as error:
    print("skip", error)
    raise SystemExit
env.reset(seed=0)
picture = env.render()
assert (picture.shape, picture.dtype) == ((240, 320, 3), np.uint8)
assert picture.std() > 5
assert np.array_equal(env.step(np.ones(6))[0], plain.step(np.ones(6))[0])
assert plain.render() is None
import triton  # its LLVM was loaded before OpenGL's
env.close()
print("drawn")
"""


@pytest.mark.usefixtures("suite")
def test_pictures():
    done = subprocess.run(
        [sys.executable, "-c", PICTURES], capture_output=True, text=True, check=False
    )
    if done.stdout.startswith("skip"):
        pytest.skip(f"no OpenGL here: {done.stdout}")
    assert done.stdout == "drawn\n", done.stderr


@pytest.mark.usefixtures("suite")
def test_without_opengl_the_error_names_the_remedy():
    program = """
from plasticity.tasks.control.dmc.environment import DMCChainEnv
try:
    DMCChainEnv("walker", render_mode="rgb_array")
except RuntimeError as error:
    print(error)
DMCChainEnv("walker").reset(seed=0)
"""
    # EGL is set to a device that does not exist.
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"MUJOCO_EGL_DEVICE_ID": "999", "EGL_DEVICE_ID": "999", "PATH": ""},
    )
    assert "needs OpenGL" in done.stdout, done.stderr
    assert "MUJOCO_GL" in done.stdout


# ---- continuing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_after", [0, 1, 79, 80, 130])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_resumed_environment_equals_an_uninterrupted_one(make, domain, saved_after):
    env = make(domain, **STREAM)
    env.reset(seed=2)
    actions = actions_of(env, 170)
    rollout(env, actions[:saved_after])
    saved = pickle.dumps(env.state_dict())
    expected = [*rollout(env, actions[saved_after:]), env.state_dict()]
    assert expected[-1]["task"] == 3
    other = make(domain, **STREAM)
    other.reset(seed=77)
    rollout(other, actions[:90])
    other.load_state_dict(pickle.loads(saved))
    found = [*rollout(other, actions[saved_after:]), other.state_dict()]
    assert equal(found, expected, exact=True)


def test_a_copy_is_independent(make):
    env = make("walker", **STREAM)
    env.reset(seed=0)
    actions = actions_of(env, 30)
    rollout(env, actions[:15])
    twin = copy.deepcopy(env)
    assert equal(rollout(twin, actions[15:]), rollout(env, actions[15:]), exact=True)
    twin.close()


def test_a_state_of_another_chain_is_refused(make):
    env, other = make("walker", **STREAM), make("walker", target_speed=8.0)
    env.reset(seed=0), other.reset(seed=0)
    with pytest.raises(ValueError, match=r"task 0 with target_speed 0, but this .* target_speed 8"):
        other.load_state_dict(env.state_dict())


# ---- bad numbers and bad inputs ----------------------------------------------------------------------


def test_physics_that_diverge_end_the_episode_like_a_fall(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working folder
    env = make("walker")
    env.reset(seed=0)
    last = env.step(np.zeros(6))[0]
    env._env.physics.data.qvel[2] = 1e200
    observation, reward, terminated, truncated, _ = env.step(np.zeros(6))
    assert np.array_equal(observation, last)
    assert (reward, terminated, truncated, env.unstable_episodes) == (0.0, True, False, 1)
    state = env.state_dict()
    env.reset(seed=0)
    fresh = make("walker")
    fresh.reset(seed=0)
    assert equal(env.step(np.ones(6)), fresh.step(np.ones(6)), exact=True)
    assert state["unstable_episodes"] == 1


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(5), r"numbers of shape \(6,\)"),
        (["1"] * 6, r"numbers of shape \(6,\)"),
        (np.full(6, math.nan), "must be finite"),
    ],
)
def test_wrong_actions_are_refused(make, action, message):
    env = make("walker")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("waker",), {}, "Did you mean 'walker'"),
        (("walker", ("trot",)), {}, "Unknown task of the chain 'trot'"),
        (("walker",), {"target_speed": 3}, "No task of walker has target_speed 3"),
        (("walker",), {"target_speed": 0, "task_seed": 1, "change_every": 5}, "one or the other"),
        (("walker",), {"num_tasks": 3}, "task_seed and change_every"),
        (("walker",), {"render_mode": "human"}, "the suite has no window"),
        (("walker",), {"render_mode": "ansi"}, "render_mode must be None or one of"),
    ],
)
def test_wrong_arguments_are_refused(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        DMCChainEnv(*arguments, **keywords)


def test_without_dm_control_the_remedy_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs dm_control.*-c constraints-dmc\.txt"):
        DMCChainEnv("walker")


def test_mujoco_4_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", types.ModuleType("dm_control"))
    newer = types.ModuleType("mujoco")
    newer.__version__ = "4.0.0"
    monkeypatch.setitem(sys.modules, "mujoco", newer)
    with pytest.raises(ModuleNotFoundError, match=r"needs MuJoCo 3, and 4\.0\.0 is installed"):
        dmc_environment.import_suite()
