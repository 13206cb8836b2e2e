"""Bullet ant: parity with the published environment, schedule, checkers, and saving and loading."""

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

pytest.importorskip("pybullet")

from plasticity.tasks import SlipperyAntBulletEnv, task_friction

ID = "plasticity.tasks:plasticity/SlipperyAntBullet-v0"


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


def test_an_episode_has_no_history(make):
    actions = actions_of(0, 150)
    fresh, used = make(0.3), make(0.3)
    used.reset(seed=5)
    rollout(used, actions_of(1, 700, 2.0))
    first = [fresh.reset(seed=3), *rollout(fresh, actions)]
    second = [used.reset(seed=3), *rollout(used, actions)]
    assert equal(first, second, exact=True)


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


def test_time_limit_after_1000_steps_without_a_wrapper(make):
    env = make()
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in actions_of(0, 1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    env.reset()
    env.step(np.zeros(8))


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


def test_a_step_needs_a_reset(make):
    with pytest.raises(gymnasium.error.ResetNeeded):
        make().step(np.zeros(8, np.float32))


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


def test_a_seed_does_not_restart_the_schedule(make):
    env = make(task_seed=0, change_every=10)
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.zeros(8))
    assert env.reset(seed=0)[1]["task"] == 1


def test_the_friction_affects_the_motion(make):
    """Compare two floors: equal seeds and actions diverge once a foot is on the ground."""
    ends = [
        rollout(env, actions_of(0, 60))[-1][0]
        for env in (make(0.02), make(2.0))
        if env.reset(seed=0)
    ]
    assert np.abs(ends[0] - ends[1]).max() > 0.01


def test_the_scheduled_friction_is_the_one_in_bullet(make):
    scheduled = make(task_seed=3, change_every=5)
    scheduled.reset(seed=0)
    for _ in range(5):
        scheduled.step(np.zeros(8))
    scheduled.reset(seed=9)
    fixed = make(task_friction(3, 1))
    fixed.reset(seed=9)
    actions = actions_of(0, 80)
    for ours, expected in zip(rollout(scheduled, actions), rollout(fixed, actions), strict=True):
        assert equal(ours[:-1], expected[:-1], exact=True)


def test_a_friction_and_a_schedule_are_refused_together():
    with pytest.raises(ValueError, match="one or the other"):
        SlipperyAntBulletEnv(0.5, task_seed=0, change_every=10)
    with pytest.raises(ValueError, match="task_seed and change_every"):
        SlipperyAntBulletEnv(num_tasks=3)


# ---- checkers and rendering --------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"task_seed": 1, "num_tasks": 5, "change_every": 1000}])
def test_the_checkers_pass(monkeypatch, arguments):
    monkeypatch.delenv("DISPLAY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (gymnasium.make(ID, **arguments), gymnasium.make(ID, **arguments).unwrapped):
            check_env_for_sb3(env)
            env.close()
        env = gymnasium.make(ID, render_mode="rgb_array", **arguments).unwrapped
        check_env(env)
        frame = env.render()
        assert frame.shape == (240, 320, 3)
        assert frame.dtype == np.uint8
        assert frame.std() > 10
        env.close()


def test_gymnasium_make(make):
    env = gymnasium.make(ID, friction=0.1)
    assert env.spec.max_episode_steps == 1000
    env.reset(seed=4)
    direct = make(0.1)
    direct.reset(seed=4)
    for action in actions_of(0, 20):
        assert equal(env.step(action), direct.step(action), exact=True)
    env.close()


def test_rendering_changes_nothing(make):
    drawn, plain = make(render_mode="rgb_array"), make()
    drawn.reset(seed=0), plain.reset(seed=0)
    for action in actions_of(0, 30):
        assert equal(drawn.step(action), plain.step(action), exact=True)
        if drawn._episode_steps in (10, 20):
            np.testing.assert_array_equal(drawn.render(), drawn.render())
    assert plain.render() is None


def test_unknown_render_modes_are_refused():
    with pytest.raises(ValueError, match=r"rgb_array.*ansi"):
        SlipperyAntBulletEnv(render_mode="ansi")


def test_the_window_is_updated_in_real_time(make, monkeypatch):
    env = make()
    env.reset(seed=0)
    env.render_mode = "human"  # a window cannot be opened here: its calls are recorded
    followed, slept = [], []
    monkeypatch.setattr(env._ant, "follow", lambda: followed.append(True))
    monkeypatch.setattr("plasticity.tasks.control.ant.bullet.time.sleep", slept.append)
    monkeypatch.setattr("plasticity.tasks.control.ant.bullet.time.monotonic", lambda: 50.0)
    for _ in range(3):
        env.step(np.zeros(8))
    assert len(followed) == 3
    assert slept == pytest.approx([0.0, 0.0165, 0.0165])
    assert env.render() is None


def test_closing_twice_is_fine(make):
    env = make()
    env.reset(seed=0)
    env.close()
    env.close()


def test_a_closed_environment_raises_an_error(make):
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    state = env.state_dict()
    env.close()
    for use in (
        lambda: env.step(np.zeros(8)),
        env.reset,
        env.render,
        lambda: env.load_state_dict(state),
    ):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make a new one"):
            use()


# ---- continuing --------------------------------------------------------------------------------------

STREAM = {"task_seed": 5, "num_tasks": 4, "change_every": 60}


def continued(env, actions):
    return [*rollout(env, actions), env.state_dict()]


@pytest.mark.parametrize("saved_after", [0, 1, 59, 130, 250])
def test_a_resumed_environment_equals_an_uninterrupted_one(make, saved_after):
    """Resume across friction changes, in the middle of an episode and at its end."""
    actions = thrown(8, 400)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:saved_after])
    saved = copy.deepcopy(env.state_dict())
    expected = continued(env, actions[saved_after:])
    assert expected[-1]["task"] == 3
    other = make(**STREAM)
    other.reset(seed=77)
    rollout(other, actions_of(1, 90))
    other.load_state_dict(saved)
    assert equal(other.state_dict(), saved, exact=True)
    assert equal(continued(other, actions[saved_after:]), expected, exact=True)


def test_continuing_in_a_fresh_process(make, tmp_path):
    actions = thrown(8, 250)
    env = make(**STREAM)
    env.reset(seed=2)
    rollout(env, actions[:50])
    (tmp_path / "state").write_bytes(pickle.dumps(env.state_dict()))
    (tmp_path / "actions").write_bytes(pickle.dumps(actions[50:]))
    program = f"""
import pathlib, pickle, sys
from plasticity.tasks import SlipperyAntBulletEnv
folder = pathlib.Path(sys.argv[1])
env = SlipperyAntBulletEnv(**{STREAM})
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


def test_a_state_before_the_first_reset(make):
    env, other = make(), make()
    env.np_random = np.random.Generator(np.random.PCG64(5))
    other.load_state_dict(env.state_dict())
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(8))
    assert equal(other.reset(), env.reset(), exact=True)


def test_loading_a_state_from_before_the_first_reset_clears_the_episode(make):
    env, other = make(**STREAM), make(**STREAM)
    fresh = env.state_dict()
    other.reset(seed=0)
    other.step(np.zeros(8))
    other.load_state_dict(fresh)
    assert equal(other.state_dict(), fresh, exact=True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(8))


def test_a_state_after_the_end_still_needs_a_reset(make):
    env, other = make(), make()
    env.reset(seed=0)
    while not env.step(np.zeros(8))[2]:
        pass
    other.load_state_dict(env.state_dict())
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(8))
    assert equal(other.reset(), env.reset(), exact=True)


def test_a_generator_used_elsewhere_is_restored_too(make):
    env, other = make(), make()
    env.reset(seed=0)
    env.np_random.random(3)
    other.load_state_dict(env.state_dict())
    assert other.np_random.random() == env.np_random.random()


def test_a_state_is_plain(make):
    env = make(**STREAM)
    env.reset(seed=0)
    env.step(np.ones(8))

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for entry in value.values() for leaf in leaves(entry)]
        return [value]

    state = env.state_dict()
    assert {type(leaf) for leaf in leaves(state)} == {int, bool, float, str, np.ndarray}
    env.step(np.zeros(8))
    assert state["actions"].tolist() == [[1.0] * 8]  # not a view


def test_a_state_of_another_schedule_is_refused(make):
    env = make(**STREAM)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"task 0 with friction .* the arguments of the saved"):
        make(0.8).load_state_dict(env.state_dict())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda env: pickle.load(io.BytesIO(pickle.dumps(env)))]
)
def test_a_copy_is_independent(make, copied):
    env = make(**STREAM)
    env.reset(seed=0)
    actions = actions_of(0, 60)
    rollout(env, actions[:30])
    twin = copied(env)
    seen = rollout(twin, actions[30:])
    assert equal(seen, rollout(env, actions[30:]), exact=True)
    twin.close()
    env.reset()
