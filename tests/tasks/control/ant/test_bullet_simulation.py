"""Bullet's world: friction, no history, pictures, and errors raised before Bullet ends the process."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

bullet = pytest.importorskip("pybullet")

from plasticity.tasks.control.ant import bullet_simulation  # noqa: E402
from plasticity.tasks.control.ant.bullet_simulation import AntSimulation  # noqa: E402

REST = [0.0] * 8


@pytest.fixture
def ant():
    simulation = AntSimulation()
    yield simulation
    simulation.close()


def _settle(ant, steps):
    for _ in range(steps):
        ant.step(REST)


def test_a_box_slides_as_far_as_coulombs_law_predicts(ant):
    """Check that with friction mu, a body of speed v comes to rest after v^2 / (2 mu g)."""
    client = ant._client
    shape = bullet.createCollisionShape(
        bullet.GEOM_BOX, halfExtents=[0.2, 0.2, 0.05], physicsClientId=client
    )
    box = bullet.createMultiBody(1.0, shape, basePosition=[0, 5, 0.05], physicsClientId=client)
    # Bullet multiplies the two bodies' coefficients: with 1, the contact has that of the floor.
    bullet.changeDynamics(
        box, -1, lateralFriction=1.0, linearDamping=0, angularDamping=0, physicsClientId=client
    )

    def position():
        return bullet.getBasePositionAndOrientation(box, client)[0][0]

    # v = 1 m/s: 1 / (2 * 9.8 * mu) = 2.551 m, 0.2551 m, 0.02551 m. A substep is 4.1 ms, and so 4.1 mm.
    for friction, expected in ((0.02, 2.551), (0.2, 0.2551), (2.0, 0.02551)):
        ant.set_friction(friction)
        _settle(ant, 20)
        start = position()
        bullet.resetBaseVelocity(box, [1, 0, 0], [0, 0, 0], client)
        _settle(ant, 330)
        assert position() - start == pytest.approx(expected, rel=0.02, abs=0.003)


def test_the_ant_slides_farther_on_a_slippery_floor_also_after_a_restart(ant):
    distances = []
    for friction in (0.02, 0.2, 2.0, 0.02):
        ant.restart(REST)
        ant.set_friction(friction)
        _settle(ant, 60)
        start = ant.torso()[0][0]
        bullet.resetBaseVelocity(ant._ant, [3, 0, 0], [0, 0, 0], ant._client)
        _settle(ant, 60)
        distances.append(ant.torso()[0][0] - start)
    slippery, usual, rough, slippery_again = distances
    assert slippery > 1.5 * usual > 1.5 * 1.5 * rough > 0
    assert slippery_again == slippery  # bitwise: the restart in between left no trace


def test_friction_set_before_or_after_a_restart_is_the_same(ant):
    def motion():
        _settle(ant, 80)
        return ant.torso(), ant.joints()

    ant.set_friction(0.05)
    ant.restart([0.1] * 8)
    before = motion()
    ant.restart([0.1] * 8)
    ant.set_friction(0.05)
    assert motion() == before


def test_links_on_floor_in_the_air_and_on_the_ground(ant):
    ant.restart(REST)
    ant.step(REST)
    assert ant.links_on_floor() == set()  # it falls from 0.75 m
    _settle(ant, 100)
    # Unpowered, it lies on its feet.
    assert set(ant.feet) <= ant.links_on_floor()


def test_joints_and_feet_are_those_of_the_model(ant):
    """Compare with ant.xml: hips from -40 to 40 degrees, ankles from 30 to 100 in either direction."""
    hip, ankle, back = np.deg2rad([-40, 40]), np.deg2rad([30, 100]), np.deg2rad([-100, -30])
    expected = [hip, ankle, hip, back, hip, back, hip, ankle]
    np.testing.assert_allclose(ant.joint_limits, expected, rtol=1e-6)
    names = [bullet.getJointInfo(ant._ant, foot, ant._client)[12].decode() for foot in ant.feet]
    assert names == ["front_left_foot", "front_right_foot", "left_back_foot", "right_back_foot"]


def test_worlds_are_independent():
    one, other = AntSimulation(), AntSimulation()
    for simulation in (one, other):
        simulation.restart(REST)
    _settle(one, 10)
    assert one.torso()[0][2] < other.torso()[0][2] == 0.75
    one.close()
    one.close()
    other.step(REST)
    other.close()


def test_a_world_ends_with_its_object():
    """Open more than the 1024 worlds of a process; each is freed, closed or not."""
    clients = set()
    for _ in range(3):
        simulation = AntSimulation()
        clients.add(simulation._client)
        del simulation
        gc.collect()
    assert len(clients) == 1


def _raise(_):
    raise bullet.error("Only one local in-process GUI/GUI_SERVER connection allowed.")


@pytest.mark.parametrize("refused", [lambda _: -1, _raise])
def test_running_out_of_worlds_is_an_error(monkeypatch, refused):
    monkeypatch.setattr(bullet, "connect", refused)
    with pytest.raises(RuntimeError, match="close the environments"):
        AntSimulation()


def test_a_picture_follows_the_ant(ant):
    picture = ant.picture(64, 48)
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    # The ant's legs are the colour of sand (0.8 0.6 0.4): more red than blue, and in the middle.
    sand = picture[:, :, 0].astype(int) - picture[:, :, 2] > 40
    rows, columns = np.nonzero(sand)
    assert len(rows) > 20
    assert abs(columns.mean() - 32) < 8
    bullet.resetBasePositionAndOrientation(ant._ant, [50, 0, 0.75], [0, 0, 0, 1], ant._client)
    moved = ant.picture(64, 48)[:, :, 0].astype(int) - ant.picture(64, 48)[:, :, 2] > 40
    assert moved.sum() == pytest.approx(sand.sum(), rel=0.2)


def test_without_pybullet_the_error_says_how_to_get_it():
    """Check as on Python 3.12, which has no wheels, that everything else still works."""
    program = """
import sys
sys.modules["pybullet"] = None  # as if it were not installed
import plasticity.tasks
assert plasticity.tasks.FrictionStream(2, 10, seed=0)[1].index == 1
try:
    plasticity.tasks.SlipperyAntBulletEnv()
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "pip install 'plasticity[bullet]'" in done.stdout


def test_on_newer_pythons_the_error_names_those_with_wheels(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    monkeypatch.setattr(bullet_simulation.sys, "version_info", (3, 12, 1))
    with pytest.raises(ModuleNotFoundError, match=r"this is Python 3\.12: use 3\.10 or 3\.11"):
        AntSimulation()


def test_importing_bullet_prints_nothing():
    code = "from plasticity.tasks.control.ant.bullet_simulation import AntSimulation; AntSimulation().close()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
