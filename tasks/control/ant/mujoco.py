"""Slippery-Ant in MuJoCo: the walking ant of `Ant-v5` on a floor that changes its friction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.environment import SlipperyAntEnv
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.slippery.mujoco import (
    FRAME_SKIP,
    TORSO,
    SlipperyMujocoEnv,
    load_model,
)

__all__ = ["FRAME_SKIP", "SlipperyAntMujocoEnv", "load_ant"]

STEP_SECONDS = 0.05
"""Simulated time of one step of the environment: 5 steps of the physics, of 10 ms each."""

HEALTHY_HEIGHTS = (0.2, 1.0)
"""Lowest and highest height of the torso at which the episode continues, in metres."""

RESET_NOISE = 0.1
"""Noise of the initial state: half the width of the positions', and the standard deviation of the
velocities'."""

CONTROL_COST, CONTACT_COST = 0.5, 5e-4
"""Cost of a unit of squared action, and of a unit of squared contact force."""

CONTACT_FORCE_LIMIT = 1.0
"""Limit to whose range, [-1, 1], contact forces and torques are clipped before they are penalised or
observed."""

_ASSET, _NAMED = "ant.xml", "The MuJoCo ant"


class SlipperyAntMujocoEnv(SlipperyMujocoEnv, SlipperyAntEnv):
    """Ant with four legs that learns to run along x, on a floor whose friction changes.

    `gymnasium.make("plasticity.tasks:plasticity/SlipperyAntMujoco-v0")` makes it in any process.

    Physics, observation, action, reward and initial state are those of Gymnasium's `Ant-v5`, except that
    contact forces are not observed unless requested; at its friction, 1, the same seed and actions give
    bitwise the same observations, rewards and endings. An episode depends only on its friction and on the
    state of `np_random` at its reset.

    The action is a torque for each of the 8 joints, in units of 150 N m, which MuJoCo clips to [-1, 1]; its
    cost is, as in the reference, that of the action before it is clipped. The observation has 27 entries:
    height of the torso, its orientation (a quaternion), and the 8 angles in rad; then velocity and angular
    velocity of the torso, and the 8 joints', in m/s and rad/s. With contact forces there are 78 more: torque
    and force on each of the 13 bodies, clipped to [-1, 1]. The reward is 1 for being healthy, plus the
    torso's velocity along x in m/s, minus 0.5 times the sum of the squared actions, minus 5e-4 times that of
    the clipped contact forces, observed or not. The episode ends when the torso is below 0.2 m or above 1 m.
    It is truncated after 1000 steps of 50 ms, even if `gymnasium.make` is given larger `max_episode_steps`.
    `SlipperyMujocoEnv` says how the friction is set, and what happens to an unstable simulation.

    The friction is constant (`friction`; by default 1), or follows the stream of
    `plasticity.tasks.control.slippery.friction` (`task_seed`, `change_every`, `num_tasks`). The observation
    does not contain it; `info` has "task", the index in the stream, and "friction", but not the entries of
    `Ant-v5`.

    Args:
        friction: Sliding coefficient, at least 0.
        include_contact_forces: Whether to observe all 105 entries, as `Ant-v5` does by default.
        arguments: `task_seed`, `num_tasks`, `change_every` and `render_mode`, as of `SlipperyAntEnv`.
            "rgb_array" needs OpenGL, but no display.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if there is no OpenGL for a render mode, or no display for "human".

    Examples:
        >>> env = SlipperyAntMujocoEnv(task_seed=0, change_every=100_000)
        >>> observation, info = env.reset(seed=0)
        >>> info["task"], env.action_space.shape
        (0, (8,))
        >>> env.close()
    """

    metadata = SlipperyAntEnv.metadata | {"render_fps": 20}
    step_seconds = STEP_SECONDS
    asset, named = _ASSET, _NAMED

    def __init__(
        self,
        friction: float | None = None,
        *,
        include_contact_forces: bool = False,
        **arguments: Any,
    ) -> None:
        if not isinstance(include_contact_forces, bool):
            raise TypeError(
                f"include_contact_forces must be True or False: {include_contact_forces!r}."
            )
        self._include_contact_forces = include_contact_forces
        super().__init__(friction, **arguments)

    def _load(self) -> None:
        super()._load()
        self._torso_position = self._data.xpos[TORSO]
        self._forces: Observation = np.zeros(self._contact_forces.shape)

    def _size_of_observation(self) -> int:
        size: int = self._model.nq - 2 + self._model.nv
        return size + (self._contact_forces[1:].size if self._include_contact_forces else 0)

    def _draw_start(self) -> tuple[NDArray[Any], NDArray[Any]]:
        noise = self.np_random.uniform(-RESET_NOISE, RESET_NOISE, self._model.nq)
        return noise, RESET_NOISE * self.np_random.standard_normal(self._model.nv)

    def _position(self) -> float:
        x: float = self._torso_position.item(0)
        return x

    def _control_cost(self, action: NDArray[Any]) -> Any:
        # In the action's own precision, as in the reference.
        return CONTROL_COST * np.add.reduce(np.square(action))

    def _observe(self) -> Observation:
        # Torque and force on each body, the world first, (14, 6).
        self._forces = self._contact_forces.clip(-CONTACT_FORCE_LIMIT, CONTACT_FORCE_LIMIT)
        # The ant's position along x and y is not observed.
        if not self._include_contact_forces:
            return np.concatenate((self._positions[2:], self._velocities))
        return np.concatenate((self._positions[2:], self._velocities, self._forces[1:].ravel()))

    def _reward(self, velocity: float, control_cost: Any) -> tuple[float, bool]:
        lowest, highest = HEALTHY_HEIGHTS
        healthy = lowest <= self._positions.item(2) <= highest
        costs = control_cost + CONTACT_COST * np.add.reduce(np.square(self._forces), axis=None)
        return float(velocity + healthy - costs), healthy

    def __getstate__(self) -> dict[str, Any]:
        own = {"include_contact_forces": self._include_contact_forces}
        return {**super().__getstate__(), **own}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._include_contact_forces = pickled["include_contact_forces"]
        super().__setstate__(pickled)


def load_ant() -> Any:
    """Load a new `mujoco.MjModel` of Gymnasium's `Ant-v5`.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    return load_model(_ASSET, _NAMED)
