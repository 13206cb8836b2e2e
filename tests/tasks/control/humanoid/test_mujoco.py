"""Humanoid in MuJoCo: parity with Gymnasium's `Humanoid-v5`, friction, rewards by hand, and bad numbers."""

import math
import sys
import types

import gymnasium
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs mujoco: pip install 'plasticity[mujoco]'")

from plasticity.tasks import SlipperyHumanoidEnv
from plasticity.tasks.control.humanoid import mujoco as humanoid_mujoco
from plasticity.tasks.control.slippery.mujoco import FRAME_SKIP


@pytest.fixture
def make():
    """Return a factory whose environments are closed at the end of the test."""
    envs = []

    def make(*args, **kwargs):
        envs.append(SlipperyHumanoidEnv(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


@pytest.fixture(scope="module")
def reference():
    """Return Gymnasium's own environment."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            import imageio  # noqa: F401
        except ImportError:  # Gymnasium's renderer imports it, and renders nothing here
            patch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
        env = gymnasium.make("Humanoid-v5")
        yield env
        env.close()


def actions_of(seed, number, scale=0.4):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (number, 17))).astype(np.float32)


# ---- the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "actions",
    [
        actions_of(0, 300),
        np.zeros((150, 17)),
        actions_of(1, 200).astype(np.float64),
        # Outside the action space: clipped, with the cost before clipping.
        actions_of(2, 200, 3.0).astype(np.float64),
        np.sign(actions_of(3, 100)).astype(np.int64),
    ],
)
def test_step_by_step_equals_gymnasiums_own(reference, make, actions):
    env = make()
    assert env.observation_space == reference.observation_space
    assert env.action_space == reference.action_space
    seed, ends, running = 100, 0, False
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
        ends += not running
    assert ends > 1


def test_the_constants_match_the_model(reference):
    theirs = reference.unwrapped
    assert theirs.dt == pytest.approx(humanoid_mujoco.STEP_SECONDS)
    assert theirs.frame_skip == FRAME_SKIP
    assert SlipperyHumanoidEnv.metadata["render_fps"] == theirs.metadata["render_fps"]
    # Stock: one sliding coefficient everywhere; the floor slides, and two parts of the body have no friction.
    assert (theirs.model.geom_friction[:, 0] == 1.0).all()
    assert theirs.model.geom_condim[0] == 3
    assert (theirs.model.geom_condim[1:] == 1).all()
    assert not theirs.model.geom_priority.any()  # otherwise a contact would use one side's


def test_the_reward_by_hand(make):
    """Compare with 1.25 v + 5 - 0.1 u² - 5e-7 f², from positions and forces that MuJoCo tells."""
    env = make()
    env.reset(seed=0)
    mass = env._model.body_mass

    def center():
        return float((mass * env._data.xipos[:, 0]).sum() / mass.sum())

    before = center()
    _, reward, *_ = env.step(np.full(17, 0.2))
    velocity = (center() - before) / 0.015
    forces = (env._data.cfrc_ext**2).sum()
    # The control cost is 0.1 * 17 * 0.04 = 0.068.
    assert reward == pytest.approx(1.25 * velocity + 5 - 0.068 - min(5e-7 * forces, 10))


def test_a_contact_costs_at_most_10(make):
    env = make()
    env.reset(seed=0)
    env._contact_forces[:] = 1e6  # 14 * 6 * 1e12 * 5e-7 without the limit
    assert env._reward(0.0, 0.0) == (5.0 - 10.0, True)


# ---- the friction ------------------------------------------------------------------------------------


@pytest.mark.parametrize("friction", [0.02, 0.2, 2.0])
def test_the_friction_is_that_of_every_contact_with_the_floor(make, friction):
    env = make(friction)
    env.reset(seed=1)
    found = []
    for action in actions_of(1, 80, 0.1):
        env._running = True  # it goes on as it lies on the floor
        env.step(action)
        contacts = env._data.contact
        floor = (contacts.geom == 0).any(-1)
        found.append(contacts.friction[floor])
        assert (contacts.dim[floor] == 3).all()
    found = np.concatenate(found)
    assert len(found) > 10
    assert (found[:, :2] == friction).all()


def distance_slid(env):
    """Return how far a humanoid that lies on the floor slides in a second, from 2 m/s."""
    env.reset(seed=0)
    for _ in range(100):
        env._running = True
        env.step(np.zeros(17))
    start = env._position()
    env._velocities[:] = 0
    env._velocities[0] = 2.0
    for _ in range(67):
        env._running = True
        env.step(np.zeros(17))
    return env._position() - start


def test_a_humanoid_slides_farther_on_slippery_ground(make):
    slippery, middle, rough = (distance_slid(make(friction)) for friction in (0.02, 0.2, 2.0))
    # A body at 2 m/s with nothing but sliding: 2 t - mu g t² / 2 = 1.9 m in 1 s at 0.02,
    # v² / (2 mu g) = 1.02 m at 0.2, 0.1 m at 2. It rolls and folds, and margins are wide.
    assert slippery == pytest.approx(1.9, abs=0.4)
    assert middle == pytest.approx(1.02, abs=0.4)
    assert rough < 0.6
    assert slippery > middle > rough


# ---- bad numbers and bad inputs ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, 1e200])
def test_numbers_that_are_not_finite_end_the_episode_like_a_fall(
    make, monkeypatch, tmp_path, value
):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log into the working folder
    env = make()
    env.reset(seed=0)
    last = env.step(np.zeros(17))[0]
    env._data.qvel[3] = value
    observation, reward, terminated, truncated, _ = env.step(np.full(17, 0.2))
    # Nothing of the bad state: the previous observation, and the cost of the action, 0.1 * 17 * 0.2².
    assert np.array_equal(observation, last)
    assert reward == pytest.approx(-0.068)
    assert (terminated, truncated, env.unstable_episodes) == (True, False, 1)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (np.zeros(8), ValueError, r"17 finite numbers, shape \(17,\), not of shape \(8,\)"),
        (np.full(17, math.nan), ValueError, "must be 17 finite numbers"),
        (np.full(17, 1e30), ValueError, "too large: its cost"),
        (["1"] * 17, TypeError, "17 finite numbers, not of type"),
    ],
)
def test_wrong_actions_are_refused(make, action, error, message):
    env = make()
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(action)


def test_a_friction_below_0_is_refused():
    with pytest.raises(ValueError, match="friction must be"):
        SlipperyHumanoidEnv(-0.1)


def test_without_mujoco_the_remedy_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ModuleNotFoundError, match=r"The MuJoCo humanoid needs mujoco.*\[mujoco\]"):
        SlipperyHumanoidEnv()
