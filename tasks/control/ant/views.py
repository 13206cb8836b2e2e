"""Pictures of the ants: how often one is taken, and how fast an ant runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from plasticity.tasks.control.ant import bullet_simulation, mujoco
from plasticity.tasks.control.base import View

# In the Bullet ant's observation:
_SINE, _COSINE = 1, 2  # of the angle between its heading and the target
_VELOCITIES = slice(3, 5)  # forward and to the left, …
_VELOCITY_SCALE = 0.3  # … times this

_VELOCITY_ALONG_X = 13  # in the MuJoCo ant's observation


def bullet_speed(observation: NDArray[Any]) -> float:
    """Return the speed of the Bullet ant's torso toward its target, in m/s, from an observation, (28,)."""
    forward, left = observation[_VELOCITIES] / _VELOCITY_SCALE
    return float(forward * observation[_COSINE] + left * observation[_SINE])


def mujoco_speed(observation: NDArray[Any]) -> float:
    """Return the speed of the MuJoCo ant's torso along x, in m/s, from an observation, (27,)."""
    return float(observation[_VELOCITY_ALONG_X])


_MUJOCO_VIEW = View(mujoco.STEP_SECONDS, 1, "fell, or jumped too high", mujoco_speed)
# 20 pictures per simulated second with every engine.
VIEWS: Mapping[str, View] = {
    "bullet": View(bullet_simulation.STEP_SECONDS, 3, "fell", bullet_speed),
    "mujoco": _MUJOCO_VIEW,
    "warp": _MUJOCO_VIEW,
}
"""Views by the names of `plasticity.tasks.ENGINES`."""
