"""Slippery humanoid in MuJoCo Warp: thousands stepped at once on a GPU, each with its own friction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasticity.tasks.control.humanoid.mujoco import SlipperyHumanoidEnv
from plasticity.tasks.control.slippery.mujoco import import_mujoco, load_model
from plasticity.tasks.control.slippery.warp import SlipperyWarp
from plasticity.tasks.control.slippery.warp_physics import WarpBody


def load_humanoid() -> Any:
    """Load a new `mujoco.MjModel` of Gymnasium's `Humanoid-v5`, with the solver that MuJoCo Warp has.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    model = load_model(SlipperyHumanoidEnv.asset, SlipperyHumanoidEnv.named)
    model.opt.solver = import_mujoco(SlipperyHumanoidEnv.named).mjtSolver.mjSOL_NEWTON
    return model


_FLOOR_CONTACTS = 29
"""Two of each of the 12 capsules, one of each of the 5 spheres."""

_BODY_CONTACTS = 161
"""Contacts of all pairs of parts that MuJoCo lets collide: two of each of 52 pairs of capsules, one of the 57
others."""

WARP_HUMANOID = WarpBody(
    name="humanoid",
    load_model=load_humanoid,
    kernels="plasticity.tasks.control.humanoid.warp_kernels",
    most_contacts=_FLOOR_CONTACTS + _BODY_CONTACTS,
    most_rows=4 * _FLOOR_CONTACTS + _BODY_CONTACTS,
    joint_limits=17,
)
"""Body of the humanoids, as MuJoCo Warp needs it."""

_OBSERVATION_SIZE = 348


class SlipperyHumanoidWarp(SlipperyWarp):
    """Gymnasium's `Humanoid-v5`, many at once in float32, on floors whose friction changes.

    Observation, action, reward, end and reset are those of `SlipperyHumanoidEnv`, whose docstring has them.
    `SlipperyWarp` says how the friction is set, what the start of an episode depends on, and what happens to
    an unstable simulation.

    `Humanoid-v5` computes contact forces by at most 50 sweeps of projected Gauss-Seidel, which MuJoCo Warp
    does not have: Newton's method here solves the same problem to the end. At a friction of 1 or more, the
    sweeps come there as well, and a step is that of `SlipperyHumanoidEnv`. On slippery floors they end too
    early: below 0.05, a step of `SlipperyHumanoidEnv` is off by 0.025 m/s or more in one of ten states, and
    by up to 0.19 m/s.

    The velocity along x is a difference of float32 positions within 15 ms, so that a reward has their
    rounding error: some 1e-5 near the start; at 100 m, the last digit of a position is worth 6e-4. These
    errors cancel out within an episode.

    Args:
        num_envs: Number of humanoids.
        reset_seeds: Seeds of the episodes' starts, one for each environment, 0 to 2^63 - 1.
        arguments: `friction`, `task_seeds`, `num_tasks`, `change_every`, `device`, `max_contacts`, `refine`
            and `record`, as of `SlipperyWarp`.

    Raises:
        ModuleNotFoundError: if MuJoCo, Warp or MuJoCo Warp is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, there is not one seed for each environment, or both a
            friction and a stream are given.
    """

    body = WARP_HUMANOID
    num_joints = SlipperyHumanoidEnv.num_joints
    action_limit = SlipperyHumanoidEnv.action_limit
    position_entry = "center_x"

    def __init__(self, num_envs: int, *, reset_seeds: Sequence[int], **arguments: Any) -> None:
        super().__init__(
            num_envs, reset_seeds=reset_seeds, observation_size=_OBSERVATION_SIZE, **arguments
        )

    def _begin(self) -> None:
        super()._begin()
        self._physics.place()
        self._launch(self._physics.kernels.observe_starts)
