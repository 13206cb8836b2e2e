"""Slippery humanoid in MuJoCo: the walker of `Humanoid-v5` on a floor that changes its friction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.slippery.mujoco import SlipperyMujocoEnv

STEP_SECONDS = 0.015
"""Simulated time of one step of the environment: 5 steps of the physics, of 3 ms each."""

HEALTHY_HEIGHTS = (1.0, 2.0)
"""Heights of the torso between which the episode continues, in metres."""

RESET_NOISE = 0.01
"""Half the width of the noise of the initial positions and velocities."""

FORWARD_REWARD, HEALTHY_REWARD = 1.25, 5.0
"""Reward of a velocity of 1 m/s, and of a step within the heights."""

CONTROL_COST, CONTACT_COST, LARGEST_CONTACT_COST = 0.1, 5e-7, 10.0
"""Cost of a unit of squared action, of a unit of squared contact force, and the largest one of a step's
forces."""

_ROOT_VELOCITIES = 6


class SlipperyHumanoidEnv(SlipperyMujocoEnv):
    """Humanoid that learns to run along x, on a floor whose friction changes.

    `gymnasium.make("plasticity.tasks:plasticity/SlipperyHumanoid-v0")` makes it in any process.

    Physics, observation, action, reward and initial state are those of Gymnasium's `Humanoid-v5`; at its
    friction, 1, the same seed and actions give bitwise the same observations, rewards and endings.
    `SlipperyMujocoEnv` says how the friction is set, and what happens to an unstable simulation. Contacts
    with the floor slide; those of two parts of the body, as in Gymnasium's, have no friction at all.

    The action is a control for each of the 17 joints, which MuJoCo clips to [-0.4, 0.4]. The observation has
    348 entries: height of the torso, its orientation (a quaternion), and the 17 angles in rad; velocity and
    angular velocity of the torso, and the 17 joints', in m/s and rad/s; then inertia (130) and velocity (78)
    of each of the 13 bodies, the 17 torques of the motors in N m, and torque and force of the contacts on
    each body (78). The reward is 1.25 times the velocity of the center of mass along x in m/s, plus 5 for
    being healthy, minus 0.1 times the sum of the squared controls before they are clipped, minus 5e-7 times
    that of the contact forces, at most 10. The episode ends when the torso is not between 1 m and 2 m. It is
    truncated after 1000 steps of 15 ms.

    The friction is constant (`friction`; by default 1), or follows the stream of
    `plasticity.tasks.control.slippery.friction` (`task_seed`, `change_every`, `num_tasks`). The observation
    does not contain it; `info` has "task", the index in the stream, and "friction".

    Keyword Args:
        friction: Sliding coefficient, at least 0.
        arguments: `task_seed`, `num_tasks`, `change_every` and `render_mode`, as of `SlipperyEnv`.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if there is no OpenGL for a render mode, or no display for "human".

    Examples:
        >>> env = SlipperyHumanoidEnv(task_seed=0, change_every=100_000)
        >>> observation, info = env.reset(seed=0)
        >>> info["task"], env.action_space.shape
        (0, (17,))
        >>> env.close()
    """

    metadata = SlipperyMujocoEnv.metadata | {"render_fps": 67}
    step_seconds = STEP_SECONDS
    num_joints = 17
    action_limit = 0.4
    asset, named = "humanoid.xml", "The MuJoCo humanoid"

    def _load(self) -> None:
        super()._load()
        data = self._data
        self._centers, self._masses = data.xipos, self._model.body_mass[:, None].copy()
        self._mass = np.sum(self._masses)
        # The world, the first body, is not observed.
        self._observed = (
            self._positions[2:],
            self._velocities,
            data.cinert[1:],
            data.cvel[1:],
            data.qfrc_actuator[_ROOT_VELOCITIES:],
            self._contact_forces[1:],
        )

    def _size_of_observation(self) -> int:
        model = self._model
        # An inertia has 10 entries, a velocity 6, and a contact force 6.
        of_bodies = (10 + 6 + 6) * (model.nbody - 1)
        return int(model.nq - 2 + model.nv + of_bodies + model.nv - _ROOT_VELOCITIES)

    def _draw_start(self) -> tuple[NDArray[Any], NDArray[Any]]:
        noise = self.np_random.uniform(-RESET_NOISE, RESET_NOISE, self._model.nq)
        return noise, self.np_random.uniform(-RESET_NOISE, RESET_NOISE, self._model.nv)

    def _position(self) -> float:
        # Summed in the order of the reference, over whole rows, so that it is bitwise equal.
        return float((np.sum(self._masses * self._centers, axis=0) / self._mass)[0])

    def _control_cost(self, action: NDArray[Any]) -> Any:
        return CONTROL_COST * np.sum(np.square(action.astype(np.float64)))

    def _observe(self) -> Observation:
        return np.concatenate([each.ravel() for each in self._observed])

    def _reward(self, velocity: float, control_cost: Any) -> tuple[float, bool]:
        lowest, highest = HEALTHY_HEIGHTS
        healthy = lowest < self._positions.item(2) < highest
        contact_cost = CONTACT_COST * np.sum(np.square(self._contact_forces))
        rewards = FORWARD_REWARD * velocity + HEALTHY_REWARD * healthy
        return float(rewards - (control_cost + min(contact_cost, LARGEST_CONTACT_COST))), healthy
