"""Slippery-Ant in MuJoCo Warp: thousands of ants stepped at once on a GPU, each with its own friction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasticity.tasks.control.ant.environment import NUM_JOINTS
from plasticity.tasks.control.ant.mujoco import load_ant
from plasticity.tasks.control.slippery.warp import SlipperyWarp
from plasticity.tasks.control.slippery.warp_physics import WarpBody

WARP_ANT = WarpBody(
    name="ant",
    load_model=load_ant,
    kernels="plasticity.tasks.control.ant.warp_kernels",
    # Two of each of its 12 capsules with the floor, one of its torso.
    most_contacts=25,
    most_rows=4 * 25,
    joint_limits=8,
)
"""Body of the ants, as MuJoCo Warp needs it."""

_STATE_SIZE = 27
_CONTACT_SIZE = 78


class SlipperyAntWarp(SlipperyWarp):
    """Gymnasium's `Ant-v5`, many at once in float32, on floors whose friction changes.

    Observation, reward, end and reset are those of `Ant-v5`. The observation is the position without x and y
    (13 numbers), the velocity (14) and, if requested, the contact forces on 13 bodies (78, clipped to
    [-1, 1]). The reward is 1 for each step between 0.2 m and 1 m of height, plus the torso's velocity along x
    in m/s, minus 0.5 times the squared action and 5e-4 times the squared contact forces (observed or not).
    The episode ends outside these heights, and is truncated after 1000 steps of 0.05 s. The action is a
    torque for each of 8 joints, in units of 150 N m; MuJoCo clips it to [-1, 1].

    `SlipperyWarp` says how the friction is set, what the start of an episode depends on, and what happens to
    an unstable simulation.

    The velocity along x is a difference of float32 positions, so that a reward has their rounding error: up
    to 2e-5 near the start, 6e-4 at a distance of 250 m. These errors cancel out within an episode.

    Without the second solution of the contact forces (`refine`), a step on the most slippery floor is off by
    up to 0.02 m/s (1e-4 m/s in the median), with it by at most 1e-4 m/s. A step takes about 30 % longer with
    it on a CPU (on a GPU: not measured).

    Args:
        num_envs: Number of ants.
        reset_seeds: Seeds of the episodes' starts, one for each environment, 0 to 2^63 - 1.
        include_contact_forces: Whether contact forces are observed.
        arguments: `friction`, `task_seeds`, `num_tasks`, `change_every`, `device`, `max_contacts`, `refine`
            and `record`, as of `SlipperyWarp`.

    Raises:
        ModuleNotFoundError: if MuJoCo, Warp or MuJoCo Warp is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, there is not one seed for each environment, or both a
            friction and a stream are given.
    """

    body = WARP_ANT
    num_joints = NUM_JOINTS
    position_entry = "torso_x"

    def __init__(
        self,
        num_envs: int,
        *,
        reset_seeds: Sequence[int],
        include_contact_forces: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(
            num_envs,
            reset_seeds=reset_seeds,
            observation_size=_STATE_SIZE + _CONTACT_SIZE * bool(include_contact_forces),
            **arguments,
        )
