"""Views of the ants: the distance that they run, and how often a picture is taken."""

import numpy as np
import pytest

from plasticity.tasks import ENGINES, SlipperyAntBulletEnv, SlipperyAntMujocoEnv
from plasticity.tasks.control.ant.views import VIEWS, bullet_speed, mujoco_speed


def test_the_distance_is_that_of_the_bullet_torso():
    pytest.importorskip("pybullet")
    env = SlipperyAntBulletEnv()
    random = np.random.default_rng(0)
    observation, _ = env.reset(seed=1)
    start, distance = env._ant.torso()[0][0], 0.0  # the target is far along x
    for action in np.repeat(random.uniform(-1, 1, (10, 8)), 20, axis=0):
        observation, _, fell, _, _ = env.step(action)
        distance += bullet_speed(observation) * 0.0165
        if fell:
            break
    moved = env._ant.torso()[0][0] - start
    env.close()
    assert abs(moved) > 0.03
    assert distance == pytest.approx(moved, abs=0.01)


def test_the_distance_is_that_of_the_mujoco_torso():
    pytest.importorskip("mujoco")
    env = SlipperyAntMujocoEnv()
    env.reset(seed=1)
    start, distance = env._data.qpos[0], 0.0
    for action in np.repeat(np.random.default_rng(0).uniform(-0.3, 0.3, (10, 8)), 10, axis=0):
        observation, *_ = env.step(action)
        distance += mujoco_speed(observation) * 0.05
    moved = env._data.qpos[0] - start
    assert abs(moved) > 0.15
    # The speed at the end of each 50 ms is taken for the whole step, which is not exact.
    assert distance == pytest.approx(moved, rel=0.2)


def test_every_engine_has_a_view():
    assert set(VIEWS) == set(ENGINES)
    for view in VIEWS.values():
        assert view.steps_per_frame * view.step_seconds == pytest.approx(0.05, rel=0.02)
