"""MuJoCo ant: parity with Gymnasium's `Ant-v5`, friction, ends and states."""

import math
import pickle
import subprocess
import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equal
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks import SlipperyAntMujocoEnv, task_friction
from plasticity.tasks.control.ant import mujoco as ant_mujoco

ID = "plasticity.tasks:plasticity/SlipperyAntMujoco-v0"


@pytest.fixture
def make():
    """Return a factory whose environments are closed at the end of the test."""
    pytest.importorskip("mujoco")
    envs = []

    def make(*args, **kwargs):
        envs.append(SlipperyAntMujocoEnv(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def actions_of(seed, number, scale=1.0):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (number, 8))).astype(np.float32)


# Back and forth, every four steps: it jumps over 1 m after 8 steps or a few more.
def thrown(seed, number):
    to_and_fro = np.where(np.arange(number) // 4 % 2, 1, -1)[:, None] * [
        -1,
        1,
        -1,
        1,
        -1,
        -1,
        -1,
        1,
    ]
    return (to_and_fro * (1 - 0.2 * np.abs(actions_of(seed, number)))).astype(np.float32)


def rollout(env, actions):
    """Step, resetting without a seed whenever an episode ends; return everything observed."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            seen.append(env.reset())
    return seen


# ---- the reference -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_reference():
    """Return a factory of Gymnasium's own environment."""
    pytest.importorskip("mujoco")
    with pytest.MonkeyPatch.context() as patch:
        try:
            import imageio  # noqa: F401
        except ModuleNotFoundError:  # Gymnasium imports it for rendering, which is not needed here
            patch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))

        def make(**kwargs):
            return gymnasium.make("Ant-v5", **kwargs)

        yield make


@pytest.mark.parametrize(
    ("include", "actions"),
    [
        (False, actions_of(0, 1200)),
        (True, actions_of(1, 600)),
        (False, actions_of(2, 1100, 0.1).astype(np.float64)),
        # Other types, in their own precision.
        (False, actions_of(4, 400).astype(np.float16)),
        (False, np.sign(actions_of(5, 400)).astype(np.int64)),
        # Outside the action space: clipped, with the cost before clipping.
        (True, actions_of(3, 200, 2.0).astype(np.float64)),
    ],
)
def test_step_by_step_equals_gymnasiums_own(make_reference, make, include, actions):
    reference = make_reference(include_cfrc_ext_in_observation=include)
    env = make(include_contact_forces=include)
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    seed, ends, running = 100, set(), False
    for action in actions:
        if not running:
            expected, _ = reference.reset(seed=seed)
            observation, info = env.reset(seed=seed)
            seed = None if seed else 101  # every other episode continues the generator
            np.testing.assert_array_equal(observation, expected)
            assert info == {"task": 0, "friction": 1.0}
        expected, expected_reward, *expected_ends, _ = reference.step(action)
        observation, reward, *ended, _ = env.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert (reward, ended) == (expected_reward, expected_ends)
        running = not any(ended)
        ends.add(tuple(ended))
    assert len(ends) > 1  # at least one episode ended
    reference.close()


def test_the_constants_match_the_model(make, make_reference):
    reference = make_reference().unwrapped
    assert (reference.dt, reference.frame_skip) == (ant_mujoco.STEP_SECONDS, ant_mujoco.FRAME_SKIP)
    assert SlipperyAntMujocoEnv.metadata["render_fps"] == 1 / reference.dt
    # Stock: one sliding coefficient everywhere, and contacts of condim 3, which use no other.
    assert (reference.model.geom_friction == [1.0, 0.5, 0.5]).all()
    assert (reference.model.geom_condim == 3).all()
    assert not reference.model.geom_priority.any()  # otherwise a contact would use one side's
    reference.close()


# ---- the friction ------------------------------------------------------------------------------------


def contact_frictions(env):
    """Return five coefficients of each contact: two of sliding, one of torsion, two of rolling."""
    return env._data.contact.friction.copy()


@given(friction=st.floats(0.02, 2.0), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_the_friction_is_that_of_every_contact(friction, seed):
    pytest.importorskip("mujoco")
    env = SlipperyAntMujocoEnv(friction)
    env.reset(seed=seed)
    found = []
    for action in actions_of(seed, 25, 0.1):
        env.step(action)
        found.append(contact_frictions(env))
    found = np.concatenate(found)
    assert len(found) > 10
    np.testing.assert_array_equal(found, np.broadcast_to([friction] * 2 + [0.5] * 3, found.shape))
    env.close()


def test_setting_the_floor_alone_is_not_enough(make):
    """Check that MuJoCo uses the larger of two coefficients."""
    env = make(0.02)
    env.reset(seed=0)
    env._model.geom_friction[1:, 0] = 1.0
    for _ in range(20):
        env.step(np.zeros(8))
    assert len(contact_frictions(env)) > 0
    assert (contact_frictions(env)[:, 0] == 1.0).all()


def distance_slid(env):
    env.reset(seed=0)
    for _ in range(30):  # until it lies on the floor
        env.step(np.zeros(8))
    start = env._data.qpos[0]
    env._data.qvel[:] = 0
    env._data.qvel[0] = 2.0
    for _ in range(30):
        env.step(np.zeros(8))
    return env._data.qpos[0] - start


def test_an_ant_slides_farther_on_slippery_ground(make):
    slippery, middle, rough = (distance_slid(make(friction)) for friction in (0.02, 0.2, 2.0))
    # A body at 2 m/s with nothing but sliding: 2 t - mu g t^2 / 2 = 2.78 m in 1.5 s at 0.02,
    # v^2 / (2 mu g) = 1.02 m at 0.2, 0.1 m at 2. The legs give way, and margins are wide.
    assert slippery == pytest.approx(2.78, abs=0.4)
    assert middle == pytest.approx(1.02, abs=0.4)
    assert rough < 0.5
    assert slippery > middle > rough


def test_a_friction_of_zero_is_nearly_frictionless(make):
    env = make(0.0)
    assert distance_slid(env) == pytest.approx(3.0, abs=0.3)  # 2 m/s for 1.5 s
    assert (contact_frictions(env)[:, 0] <= 1e-5).all()


# ---- episodes ----------------------------------------------------------------------------------------


def test_an_unhealthy_height_ends_the_episode(make):
    env = make()
    env.reset(seed=0)
    heights, ends = [], []
    for action in thrown(0, 100):
        observation, _, terminated, truncated, _ = env.step(action)
        assert not truncated
        heights.append(observation[0])
        ends.append(terminated)
        if terminated:
            break
    assert ends[-1]
    assert ends == [not 0.2 <= height <= 1.0 for height in heights]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))


@pytest.mark.parametrize("value", [math.nan, 1e200])
def test_numbers_that_are_not_finite_end_the_episode_like_a_fall(
    make, monkeypatch, tmp_path, value
):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working folder
    env = make()
    env.reset(seed=0)
    last = env.step(np.zeros(8))[0]
    env._data.qvel[3] = value
    observation, reward, terminated, truncated, _ = env.step(np.full(8, 0.5))
    # nothing of the bad state: the previous observation, and the cost of the action, 0.5 * 8 * 0.5^2
    assert np.array_equal(observation, last)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert env.unstable_episodes == 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    copy = pickle.loads(pickle.dumps(env))
    assert copy.unstable_episodes == 1
    env.reset(seed=0)  # as if new
    fresh = make()
    fresh.reset(seed=0)
    assert equal(env.step(np.ones(8)), fresh.step(np.ones(8)), exact=True)


def test_too_many_contacts_are_an_error(make):
    env = make()
    env.reset(seed=0)
    env._mujoco = types.SimpleNamespace(
        mjtWarning=env._mujoco.mjtWarning,
        mj_step=lambda *_: None,
        mj_rnePostConstraint=lambda *_: None,
    )
    numbers = np.zeros(7, int)
    numbers[int(env._mujoco.mjtWarning.mjWARN_CONTACTFULL)] = 1
    env._warnings = types.SimpleNamespace(number=numbers)
    with pytest.raises(RuntimeError, match="no room for all contacts"):
        env.step(np.zeros(8))


# ---- installation ------------------------------------------------------------------------------------


def test_include_contact_forces_is_true_or_false():
    with pytest.raises(TypeError, match="True or False: 1"):
        SlipperyAntMujocoEnv(include_contact_forces=1)


def test_without_mujoco_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'mujoco'", name=name)

    monkeypatch.setattr(ant_mujoco, "importlib", types.SimpleNamespace(import_module=missing))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'plasticity\[mujoco\]'"):
        SlipperyAntMujocoEnv()


def test_it_needs_neither_pybullet_nor_gymnasiums_rendering_packages():
    """Check as on Python 3.12 and later, for which PyBullet has no wheels."""
    pytest.importorskip("mujoco")
    program = """
import sys
for module in ("pybullet", "pybullet_data", "imageio"):
    sys.modules[module] = None
import gymnasium, numpy
from plasticity.tasks import SlipperyAntMujocoEnv, slippery_ant_vector
assert "mujoco" not in sys.modules
env = gymnasium.make("plasticity.tasks:plasticity/SlipperyAntMujoco-v0")
env.reset(seed=0)
env.step(numpy.zeros(8, numpy.float32))
envs = slippery_ant_vector(2, engine="mujoco", friction=0.1)
envs.reset(seed=0)
envs.step(numpy.zeros((2, 8)))
envs.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- continuing --------------------------------------------------------------------------------------


def test_every_step_can_be_resumed(make):
    """Resume as it stands, slides and falls: the state has warm starts, contacts and torso position."""
    env, other = make(0.1), make(0.1)
    env.reset(seed=1)
    for action in thrown(3, 60):
        other.load_state_dict(env.state_dict())
        *seen, ended, _, _ = env.step(action)
        *expected, _, _, _ = other.step(action)
        assert equal(seen, expected, exact=True)
        if ended:
            env.reset()


def test_a_state_of_another_version_of_mujoco_is_refused(make):
    env = make()
    env.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(ValueError, match=r"shape \(3,\), but that of MuJoCo .* the version"):
        env.load_state_dict({**state, "physics": np.zeros(3)})


# ---- Stable-Baselines3 -------------------------------------------------------------------------------


def test_the_callback_of_stable_baselines3_sees_the_boundaries():
    pytest.importorskip("mujoco")
    from stable_baselines3 import PPO

    from plasticity.sb3 import PlasticityCallback, policy_kwargs

    # episodes short enough that a change comes whatever the policy does
    env = gymnasium.make(ID, task_seed=1, change_every=128, max_episode_steps=50)
    kwargs = policy_kwargs(PPO, regularizer="syre", strength=1e-3, sigma=0.3, net_arch=[8])
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=kwargs)
    callback = PlasticityCallback(every=512, info_keys=["friction"])
    model.learn(640, callback=callback)
    boundaries = [row for row in callback.rows if row["boundary"]]
    assert boundaries
    for row in boundaries:
        assert row["friction"] == task_friction(1, row["task"])
    env.close()
