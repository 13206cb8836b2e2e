"""Bullet ant: parity with the published environment, rewards, ends and friction."""

import math

import gymnasium
import numpy as np
import pytest

pytest.importorskip("pybullet")

from plasticity.tasks import SlipperyAntBulletEnv, task_friction


@pytest.fixture
def make():
    """Return a factory whose environments are closed at the end of the test."""
    envs = []

    def make(*args, **kwargs):
        envs.append(SlipperyAntBulletEnv(*args, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def actions_of(seed, number, scale=1.0):
    return (scale * np.random.default_rng(seed).uniform(-1, 1, (number, 8))).astype(np.float32)


# Sustained, it topples the ant after 80 to 90 steps. Without torque it falls after 20; at random, rarely.
THROWN = np.array([-1, 1, -1, -1, -1, -1, 1, -1], np.float32)


def thrown(seed, number):
    return THROWN * (1 - 0.1 * np.abs(actions_of(seed, number)))


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
def reference():
    pytest.importorskip("pybullet_envs_gymnasium")
    env = gymnasium.make("AntBulletEnv-v0")
    env.reset(seed=0)
    # Its first episode has a stale potential: only later ones are compared.
    env.step(np.zeros(8, np.float32))
    yield env
    env.close()


@pytest.mark.parametrize(
    ("actions", "ends"),
    [
        (actions_of(0, 2000), {(False, True)}),
        (actions_of(1, 200, 0.3).astype(np.float64), {(True, False)}),
        (thrown(2, 700), {(True, False)}),
        # Outside the action space: clipped.
        (actions_of(3, 1100, 2.0).astype(np.float64), {(False, True)}),
    ],
)
def test_step_by_step_equals_the_published_environment(reference, make, actions, ends):
    env = gymnasium.wrappers.TimeLimit(make(), 1000)
    seed, seen, running = 100, set(), False
    for action in actions:
        if not running:
            expected, _ = reference.reset(seed=seed)
            observation, info = env.reset(seed=seed)
            seed = None if seed else 101  # every other episode continues the generator
            np.testing.assert_array_equal(observation, expected)
            assert info == {"task": 0, "friction": 0.8}
        expected, expected_reward, *expected_ends, _ = reference.step(action)
        observation, reward, *ended, _ = env.step(action)
        np.testing.assert_array_equal(observation, expected)
        # The potential is 1000 m / 0.0165 s = 6e4, whose last bit is 7e-12.
        assert reward == pytest.approx(expected_reward, abs=1e-10)
        assert ended == expected_ends
        running = not any(ended)
        if not running:
            seen.add(tuple(ended))
    assert seen == ends


def test_the_reference_is_stale_only_in_its_first_potential(make):
    """Account for the floor, not yet among the parts whose mean is the ant's position: 21, not 22."""
    pytest.importorskip("pybullet_envs_gymnasium")
    reference = gymnasium.make("AntBulletEnv-v0")
    env = make()
    expected, _ = reference.reset(seed=1)
    observation, _ = env.reset(seed=1)
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-6)  # the angle to the target
    assert np.flatnonzero(observation != expected).tolist() == [1]
    for step, action in enumerate(actions_of(1, 50)):
        expected, expected_reward, *_ = reference.step(action)
        observation, reward, *_ = env.step(action)
        np.testing.assert_array_equal(observation, expected)
        tolerance = 0.05 if step == 0 else 1e-10
        assert reward == pytest.approx(expected_reward, abs=tolerance)
    reference.close()


# ---- episodes ----------------------------------------------------------------------------------------


def test_start_angles_come_from_the_environments_generator(make):
    env = make()
    observation, _ = env.reset(seed=11)
    angles = np.random.Generator(np.random.PCG64(11)).uniform(-0.1, 0.1, 8)
    limits = np.deg2rad([[-40, 40], [30, 100], [-40, 40], [-100, -30]] * 2)
    limits[5], limits[7] = limits[3], limits[1]
    expected = 2 * (angles - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) - 1
    np.testing.assert_allclose(observation[8:24:2], np.clip(expected, -5, 5), atol=1e-5)
    np.testing.assert_array_equal(observation[9:24:2], 0)


def test_the_reward_by_hand(make):
    """Compute the reward, 1 for being upright, progress in m/s and costs, from Bullet's own data."""

    def distance():
        """Return the distance from the mean of all parts, the torso and the floor at the origin included."""
        ant = env._ant
        parts = np.array([[0, 0, 0], ant.torso()[0], *(link[0] for link in ant.links())])
        return np.hypot(*([1000, 0] - parts.mean(0)[:2]))

    env = make()
    env.reset(seed=0)
    for action in actions_of(6, 30):
        before = distance()
        _, reward, *_ = env.step(action)
        speeds = np.array([joint[1] for joint in env._ant.joints()])
        angles = np.array([joint[0] for joint in env._ant.joints()])
        lower, upper = np.array(env._ant.joint_limits).T
        at_limit = np.abs(2 * (angles - lower) / (upper - lower) - 1) > 0.99
        costs = 2 * np.abs(action * 0.1 * speeds).mean() + 0.1 * (action**2).mean()
        expected = 1 + (before - distance()) / 0.0165 - costs - 0.1 * at_limit.sum()
        assert reward == pytest.approx(expected, abs=1e-5)


def test_observations_are_clipped_to_the_space(make):
    env = make()
    env.reset(seed=0)
    seen = np.stack([env.step(action)[0] for action in np.sign(actions_of(0, 40))])
    assert env.observation_space.low.tolist() == [-5.0] * 28
    assert all(observation in env.observation_space for observation in seen)


def test_a_fall_ends_the_episode(make):
    env = make()
    env.reset(seed=0)
    heights, ends = [0.75], [False]
    while not ends[-1]:
        observation, reward, terminated, truncated, _ = env.step(np.zeros(8))
        assert not truncated
        ends.append(terminated)
        heights.append(0.75 + observation[0])  # it starts at 0.75 m
    assert ends == [height <= 0.26 for height in heights]
    assert reward < -0.9  # -1, and hardly any progress
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))


def test_numbers_that_are_not_finite_are_an_error(make):
    env = make()
    env.reset(seed=0)
    bullet, ant = env._ant._bullet, env._ant
    velocity = [math.nan] * 3
    bullet.resetBaseVelocity(ant._ant, velocity, velocity, ant._client)
    with pytest.raises(FloatingPointError, match=r"not finite after step 1 .* friction 0\.8"):
        env.step(np.zeros(8))


# ---- the schedule ------------------------------------------------------------------------------------


def test_the_friction_changes_at_the_first_episode_end_after_the_interval(make):
    env = make(task_seed=3, num_tasks=3, change_every=50)
    _, info = env.reset(seed=0)
    assert info == {"task": 0, "friction": task_friction(3, 0)}
    tasks = []
    while len(tasks) < 180:
        *_, terminated, _, info = env.step(np.zeros(8))
        assert info["friction"] == task_friction(3, info["task"])
        tasks.append(info["task"])
        if terminated:
            _, info = env.reset()
            assert info["friction"] == task_friction(3, info["task"])
    # Every episode has 20 steps. That which begins at step 40 still has task 0, unlike that at step 60.
    assert tasks == [0] * 60 + [1] * 40 + [2] * 80


def test_the_friction_affects_the_motion(make):
    """Compare two floors: equal seeds and actions diverge once a foot is on the ground."""
    ends = [
        rollout(env, actions_of(0, 60))[-1][0]
        for env in (make(0.02), make(2.0))
        if env.reset(seed=0)
    ]
    assert np.abs(ends[0] - ends[1]).max() > 0.01
