"""Simulation of the ant and its floor in a separate Bullet world: all calls of Bullet are here."""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.environment import NUM_JOINTS
from plasticity.tasks.control.display import require_display
from plasticity.tasks.control.simulators import import_simulator, standard_error_closed

STEP_SECONDS = 0.0165
"""Simulated time of one step; Bullet divides it into four substeps."""

_SUBSTEPS = 4
_SOLVER_ITERATIONS = 5
_RESTITUTION = 0.5
_CAMERA_DISTANCE, _CAMERA_YAW, _CAMERA_PITCH = 3.0, 0.0, -30.0
_FIELD_OF_VIEW, _NEAR, _FAR = 60.0, 0.1, 100.0


class AntSimulation:
    """Ant of ant.xml on the plane of plane_stadium.sdf, set up as in PyBullet's `AntBulletEnv-v0`.

    It has no history: `restart` restores the state that Bullet saved just after loading, before
    anything moved. The same joint positions and torques thus give bitwise the same motion, whatever
    happened before.

    Args:
        window: Whether to open Bullet's window.

    Raises:
        ModuleNotFoundError: if PyBullet is not installed; the message says how to install it.
        RuntimeError: if there is no display for the window, or Bullet has no free world (a process can
            open one window and 1024 worlds).
    """

    joint_limits: tuple[tuple[float, float], ...]
    """Lower and upper limit of each joint, in radians: hip and ankle of each leg, front left first."""

    feet: tuple[int, ...]
    """Links that are feet, in the order of the joints."""

    def __init__(self, *, window: bool = False) -> None:
        self._bullet = bullet = _bullet()
        if window:
            require_display()
        self._client = _connect(bullet, bullet.GUI if window else bullet.DIRECT)
        # Bullet keeps a world until it is disconnected: do so with an object that was never closed.
        self._disconnect = weakref.finalize(self, bullet.disconnect, self._client)
        self._disconnect.atexit = False
        if window:
            bullet.configureDebugVisualizer(bullet.COV_ENABLE_GUI, 0, physicsClientId=self._client)
        self._load()

    def _load(self) -> None:
        bullet, client = self._bullet, self._client
        data = Path(importlib.import_module("pybullet_data").getDataPath())
        bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=client)
        bullet.setGravity(0, 0, -9.8, physicsClientId=client)
        bullet.setDefaultContactERP(0.9, physicsClientId=client)
        bullet.setPhysicsEngineParameter(
            fixedTimeStep=STEP_SECONDS,
            numSolverIterations=_SOLVER_ITERATIONS,
            numSubSteps=_SUBSTEPS,
            physicsClientId=client,
        )
        self._floors = bullet.loadSDF(str(data / "plane_stadium.sdf"), physicsClientId=client)
        for floor in self._floors:
            bullet.changeDynamics(floor, -1, restitution=_RESTITUTION, physicsClientId=client)
            bullet.changeVisualShape(floor, -1, rgbaColor=[1, 1, 1, 0.8], physicsClientId=client)
        flags = (
            bullet.URDF_USE_SELF_COLLISION
            | bullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
            | bullet.URDF_GOOGLEY_UNDEFINED_COLORS
        )
        ant_file = str(data / "mjcf" / "ant.xml")
        (self._ant,) = bullet.loadMJCF(ant_file, flags=flags, physicsClientId=client)
        self._find_links()
        # Bullet's default motors hold every joint in position: disable them, as torques move the joints.
        bullet.setJointMotorControlArray(
            self._ant,
            self._links,
            bullet.POSITION_CONTROL,
            forces=[0.0] * len(self._links),
            positionGains=[0.1] * len(self._links),
            velocityGains=[0.1] * len(self._links),
            physicsClientId=client,
        )
        self._loaded = bullet.saveState(physicsClientId=client)

    def _find_links(self) -> None:
        bullet = self._bullet
        self._links = list(range(bullet.getNumJoints(self._ant, physicsClientId=self._client)))
        found = [bullet.getJointInfo(self._ant, link, self._client) for link in self._links]
        joints = [info for info in found if not info[1].startswith(b"jointfix")]
        self._joints = [info[0] for info in joints]
        assert len(self._joints) == NUM_JOINTS, self._joints
        self.joint_limits = tuple((info[8], info[9]) for info in joints)
        self.feet = tuple(info[0] for info in found if info[12].endswith(b"_foot"))

    def set_friction(self, friction: float) -> None:
        """Set the floor's coefficient of lateral friction; Bullet multiplies it with the link's (1.5)."""
        for floor in self._floors:
            self._bullet.changeDynamics(
                floor, -1, lateralFriction=friction, physicsClientId=self._client
            )

    def restart(self, joint_positions: Sequence[float]) -> None:
        """Return the ant, at rest, to its initial position, with its joints at these angles, in radians."""
        bullet, client = self._bullet, self._client
        bullet.restoreState(self._loaded, physicsClientId=client)
        for joint, position in zip(self._joints, joint_positions, strict=True):
            bullet.resetJointState(self._ant, joint, position, 0.0, client)

    def step(self, torques: Sequence[float]) -> None:
        """Apply these torques, in N m, to the joints for `STEP_SECONDS`."""
        bullet, client = self._bullet, self._client
        bullet.setJointMotorControlArray(
            self._ant, self._joints, bullet.TORQUE_CONTROL, forces=torques, physicsClientId=client
        )
        bullet.stepSimulation(client)

    def joints(self) -> Any:
        """Return a tuple (position, velocity, …) for each joint, in radians and radians per second."""
        return self._bullet.getJointStates(self._ant, self._joints, self._client)

    def links(self) -> Any:
        """Return a tuple for each link, whose first entry is its position (x, y, z), in metres."""
        return self._bullet.getLinkStates(self._ant, self._links, 0, 0, self._client)

    def torso(self) -> Any:
        """Return the torso's position, in metres, its Euler angles, in radians, and its velocity, in m/s."""
        bullet, ant, client = self._bullet, self._ant, self._client
        position, orientation = bullet.getBasePositionAndOrientation(ant, client)
        velocity, _ = bullet.getBaseVelocity(ant, client)
        return position, bullet.getEulerFromQuaternion(orientation), velocity

    def links_on_floor(self) -> set[int]:
        """Return the links that touch the floor; -1 is the torso."""
        return {
            point[3]
            for floor in self._floors
            for point in self._bullet.getContactPoints(self._ant, floor, -2, -2, self._client)
        }

    def follow(self) -> None:
        """Point the window's camera at the ant."""
        bullet, client = self._bullet, self._client
        position, _ = bullet.getBasePositionAndOrientation(self._ant, client)
        bullet.resetDebugVisualizerCamera(
            _CAMERA_DISTANCE, _CAMERA_YAW, _CAMERA_PITCH, position, physicsClientId=client
        )

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """Render the ant from a camera that follows it, without a display.

        Args:
            width: Width in pixels.
            height: Height in pixels.

        Returns:
            Red, green and blue, from 0 to 255. Shape: (height, width, 3).
        """
        bullet, client = self._bullet, self._client
        position, _ = bullet.getBasePositionAndOrientation(self._ant, client)
        view = bullet.computeViewMatrixFromYawPitchRoll(
            position, _CAMERA_DISTANCE, _CAMERA_YAW, _CAMERA_PITCH, 0.0, 2
        )
        projection = bullet.computeProjectionMatrixFOV(_FIELD_OF_VIEW, width / height, _NEAR, _FAR)
        pixels = bullet.getCameraImage(
            width,
            height,
            viewMatrix=view,
            projectionMatrix=projection,
            renderer=bullet.ER_TINY_RENDERER,
            physicsClientId=client,
        )[2]
        image = np.asarray(pixels, dtype=np.uint8).reshape(height, width, 4)
        return np.ascontiguousarray(image[:, :, :3])

    def close(self) -> None:
        """Free the Bullet world; closing twice is fine."""
        self._disconnect()


def _bullet() -> Any:
    remedy = "pip install 'plasticity[bullet]'"
    if sys.version_info >= (3, 12):
        python = ".".join(map(str, sys.version_info[:2]))
        remedy = (
            f"this is Python {python}: use 3.10 or 3.11, the last with wheels, and {remedy}; or use "
            "the MuJoCo ant, with pip install 'plasticity[mujoco]'"
        )
    with nullcontext() if "pybullet" in sys.modules else standard_error_closed():
        return import_simulator("pybullet", "The Bullet ant", remedy)


def _connect(bullet: Any, mode: int) -> int:
    reason: Exception | None = None
    try:
        client = int(bullet.connect(mode))
    except bullet.error as error:
        client, reason = -1, error
    if client < 0:
        raise RuntimeError(
            "Bullet cannot open another world in this process: close the environments that are no longer "
            "needed (a process has at most one window, and 1024 worlds)."
        ) from reason
    return client
