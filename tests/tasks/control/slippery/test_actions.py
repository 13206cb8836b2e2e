"""Actions: those that every ant accepts, and those that all refuse with the same message."""

import math
import re

import numpy as np
import pytest
import torch

from plasticity.tasks import SlipperyAntBulletEnv, SlipperyAntMujocoEnv, slippery_ant_vector
from plasticity.tasks.control.slippery.actions import LARGEST_ACTION, checked_action

ENGINES = {"pybullet": SlipperyAntBulletEnv, "mujoco": SlipperyAntMujocoEnv}


@pytest.fixture(params=ENGINES)
def env(request):
    """Make the ant of each simulator, with an episode running."""
    pytest.importorskip(request.param)
    env = ENGINES[request.param]()
    env.reset(seed=0)
    yield env
    env.close()


def one(value, dtype=np.float64):
    """Return an action with one entry of this value."""
    action = np.zeros(8, dtype)
    action[3] = value
    return action


# float16's largest number is 65504, whose root is 255.937; otherwise absolute values may add up to 1e15.
TOO_LARGE = [
    np.full(8, 1e30),
    np.full(8, -1e30),
    one(1e30),
    one(-1e30, np.float32),
    one(1.1e15),
    np.full(8, 1.3e14),
    np.full(8, 1e308),  # whose sum is inf
    np.full(8, 2**62),
    one(300, np.float16),
]


@pytest.mark.parametrize("action", TOO_LARGE)
def test_too_large_actions_are_refused(env, action):
    with pytest.raises(ValueError, match="too large: its cost") as caught:
        env.step(action)
    message = str(caught.value)
    assert str(action.astype(float).tolist()) in message
    assert "clip it to the action space" in message
    assert ("255.937" if action.dtype == np.float16 else "1e+15") in message
    env.step(np.zeros(8))  # the environment is unchanged


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_actions_that_are_not_finite_are_refused(env, bad, dtype):
    message = re.escape(f"must be 8 finite numbers: [0.0, 0.0, 0.0, {bad}, 0.0")
    with pytest.raises(ValueError, match=message):
        env.step(one(bad, dtype))
    env.step(np.zeros(8))


@pytest.mark.parametrize("action", [np.zeros(7), np.zeros((1, 8)), np.zeros((8, 1)), 0.0, []])
def test_actions_of_another_shape_are_refused(env, action):
    shape = re.escape(str(np.shape(action)))
    with pytest.raises(ValueError, match=rf"8 finite numbers, shape \(8,\), not of shape {shape}"):
        env.step(action)


@pytest.mark.parametrize(
    "action",
    [
        None,
        ["1"] * 8,
        np.zeros(8, bool),
        np.zeros(8, complex),
        np.array([None] * 8),
        np.zeros(8, "datetime64[s]"),
    ],
)
def test_actions_that_are_not_real_numbers_are_refused(env, action):
    with pytest.raises(TypeError, match="8 finite numbers, not of type"):
        env.step(action)


def test_the_cost_of_a_large_action_is_that_before_clipping():
    """Compare with the reference: -0.5 * 8 * (1e6)^2, and for the largest allowed action -0.5 * (1e15)^2."""
    pytest.importorskip("mujoco")
    env = SlipperyAntMujocoEnv()
    env.reset(seed=0)
    assert env.step(np.full(8, 1e6))[1] == pytest.approx(-4e12)
    assert env.step(one(LARGEST_ACTION))[1] == pytest.approx(-5e29)
    env.close()


def test_the_cost_of_integers_does_not_overflow(env):
    """Use int8, in which 100 * 100 is 16."""
    rewards = []
    for dtype in (np.float64, np.int8, np.int64):
        env.reset(seed=0)
        rewards.append(env.step(one(100, dtype))[1])
    assert rewards == [rewards[0]] * 3
    assert rewards[0] < -90


def test_the_precision_stays():
    for dtype in (np.float16, np.float32, np.float64):
        assert checked_action(one(0.3, dtype), 8).dtype == dtype
    assert checked_action([1] * 8, 8).dtype == np.float64
    assert checked_action(torch.ones(8), 8).tolist() == [1.0] * 8


def test_the_vector_environment_refuses_too():
    pytest.importorskip("mujoco")
    for bad, words in ((1e30, "too large: its cost"), (math.nan, "8 finite numbers")):
        envs = slippery_ant_vector(2, engine="mujoco", friction=1.0)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=words):
            envs.step(np.stack([np.zeros(8), one(bad)]))
        envs.close()
