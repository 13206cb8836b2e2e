"""Slippery-Ant in MuJoCo: the walking ant of `Ant-v5` on a floor that changes its friction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.environment import (
    PICTURE_HEIGHT,
    PICTURE_WIDTH,
    SlipperyAntEnv,
)
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.friction import SlipperyAntTask
from plasticity.tasks.control.simulators import import_simulator

if TYPE_CHECKING:
    from plasticity.tasks.control.ant.mujoco_pictures import Pictures, Window

MUJOCO_FRICTION = 1.0
"""Sliding coefficient of the floor and of each part of the ant, in `Ant-v5`."""

FRAME_SKIP = 5
"""Steps of the physics, of 10 ms each, in a step of the environment."""

STEP_SECONDS = 0.05
"""Simulated time of one step of the environment."""

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

_TORSO = 1


class SlipperyAntMujocoEnv(SlipperyAntEnv):
    """Ant with four legs that learns to run along x, on a floor whose friction changes.

    `gymnasium.make("plasticity.tasks:plasticity/SlipperyAntMujoco-v0")` makes it in any process.

    Physics, observation, action, reward and initial state are those of Gymnasium's `Ant-v5`, except that
    contact forces are not observed unless requested; at its friction, 1, the same seed and actions give
    bitwise the same observations, rewards and endings. An episode depends only on its friction and on the
    state of `np_random` at its reset.

    MuJoCo uses the larger of two bodies' coefficients for their contact. The friction is therefore set on
    the floor and on every part of the ant, and is thus the contact's sliding coefficient. (MuJoCo raises
    values below 1e-5 to that.) The coefficients for torsion and rolling are left unchanged and have no
    effect, as the ant's contacts have neither.

    The action is a torque for each of the 8 joints, in units of 150 N m, which MuJoCo clips to [-1, 1]; its
    cost is, as in the reference, that of the action before it is clipped. The observation has 27 entries:
    height of the torso, its orientation (a quaternion), and the 8 angles in rad; then velocity and angular
    velocity of the torso, and the 8 joints', in m/s and rad/s. With contact forces there are 78 more: torque
    and force on each of the 13 bodies, clipped to [-1, 1]. The reward is 1 for being healthy, plus the
    torso's velocity along x in m/s, minus 0.5 times the sum of the squared actions, minus 5e-4 times that of
    the clipped contact forces, observed or not. The episode ends when the torso is below 0.2 m or above 1 m.
    It is truncated after 1000 steps of 50 ms, even if `gymnasium.make` is given larger `max_episode_steps`.
    If MuJoCo's numbers are no longer finite, or too large, the episode ends like a fall: the reward is minus
    the cost of the action, the observation is the previous one, and `unstable_episodes` counts the episode.
    (`Ant-v5` continues from MuJoCo's automatic reset.)

    The friction is constant (`friction`; by default 1), or follows the stream of
    `plasticity.tasks.control.friction` (`task_seed`, `change_every`, `num_tasks`). The observation does not
    contain it; `info` has "task", the index in the stream, and "friction", but not the entries of `Ant-v5`.

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
    """

    metadata = SlipperyAntEnv.metadata | {"render_fps": 20}
    stock_friction = MUJOCO_FRICTION
    step_seconds = STEP_SECONDS

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
        self._mujoco = mujoco = import_mujoco()
        self._model = model = load_ant()
        self._data = data = mujoco.MjData(model)
        self._whole_state = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        # Views of MuJoCo's memory, kept because every access to an attribute of its data creates a new one.
        self._positions, self._velocities = data.qpos, data.qvel
        self._controls, self._contact_forces = data.ctrl, data.cfrc_ext
        self._torso_position, self._warnings = data.xpos[_TORSO], data.warning
        self._start_positions, self._start_velocities = data.qpos.copy(), data.qvel.copy()
        self._seconds = model.opt.timestep * FRAME_SKIP
        self._torso_x = 0.0
        size = model.nq - 2 + model.nv
        if self._include_contact_forces:
            size += self._contact_forces[1:].size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._observation: Observation = np.zeros(size)
        self.unstable_episodes = 0
        """Number of episodes that ended because MuJoCo's numbers were no longer finite, or too large."""
        self._pictures = self._made_pictures()

    def _made_pictures(self) -> Pictures | Window | None:
        if self.render_mode is None:
            return None
        from plasticity.tasks.control.ant import mujoco_pictures  # noqa: PLC0415  (OpenGL)

        if self.render_mode == "human":
            return mujoco_pictures.Window(self._model, _TORSO)
        return mujoco_pictures.Pictures(self._model, _TORSO, PICTURE_WIDTH, PICTURE_HEIGHT)

    def _start(self, task: SlipperyAntTask) -> Observation:
        """Begin an episode near the ant at rest, at 0.75 m of height: noise on positions and velocities."""
        self._model.geom_friction[:, 0] = task.friction
        mujoco, model, data = self._mujoco, self._model, self._data
        mujoco.mj_resetData(model, data)
        noise = self.np_random.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
        self._positions[:] = self._start_positions + noise
        noise = RESET_NOISE * self.np_random.standard_normal(model.nv)
        self._velocities[:] = self._start_velocities + noise
        mujoco.mj_forward(model, data)
        self._torso_x = self._torso_position.item(0)
        self._observation = self._observe(self._clipped_contact_forces())
        return self._observation.copy()

    def _move(self, action: NDArray[Any]) -> tuple[Observation, float, bool]:
        # In the action's own precision, as in the reference.
        costs = CONTROL_COST * np.add.reduce(np.square(action))
        self._controls[:] = action
        self._mujoco.mj_step(self._model, self._data, FRAME_SKIP)
        # MuJoCo computes the contact forces on bodies only on request.
        self._mujoco.mj_rnePostConstraint(self._model, self._data)
        if self._warnings.number.any() or not math.isfinite(
            np.add.reduce(self._positions) + np.add.reduce(self._velocities)
        ):
            return self._end_lost(costs)
        torso_x = self._torso_position.item(0)
        velocity = (torso_x - self._torso_x) / self._seconds
        self._torso_x = torso_x
        lowest, highest = HEALTHY_HEIGHTS
        healthy = lowest <= self._positions.item(2) <= highest
        forces = self._clipped_contact_forces()
        costs = costs + CONTACT_COST * np.add.reduce(np.square(forces), axis=None)
        reward = float(velocity + healthy - costs)
        self._observation = self._observe(forces)
        return self._observation.copy(), reward, not healthy

    def _end_lost(self, costs: Any) -> tuple[Observation, float, bool]:
        """Return the result of a step in which MuJoCo detected a bad state and reset the ant."""
        self._running = False
        warnings = self._mujoco.mjtWarning
        full = (warnings.mjWARN_CONTACTFULL, warnings.mjWARN_CNSTRFULL)
        if any(self._warnings.number[kind] for kind in full):
            raise RuntimeError(
                f"MuJoCo had no room for all contacts in step {self._episode_steps} of an episode with"
                f" friction {self._task.friction:g}: its numbers are wrong from here on."
            )
        self.unstable_episodes += 1
        return self._observation.copy(), -float(costs), True

    def _clipped_contact_forces(self) -> Observation:
        """Return the clipped torque and force on each body, the world first; shape (14, 6)."""
        clipped: Observation = self._contact_forces.clip(-CONTACT_FORCE_LIMIT, CONTACT_FORCE_LIMIT)
        return clipped

    def _observe(self, contact_forces: Observation) -> Observation:
        # The ant's position along x and y is not observed.
        if not self._include_contact_forces:
            return np.concatenate((self._positions[2:], self._velocities))
        return np.concatenate((self._positions[2:], self._velocities, contact_forces[1:].ravel()))

    def _save(self) -> dict[str, Any]:
        """Return MuJoCo's own state: time, positions, velocities, last action, the solver's warm start."""
        size = self._mujoco.mj_stateSize(self._model, self._whole_state)
        physics = np.empty(size)
        self._mujoco.mj_getState(self._model, self._data, physics, self._whole_state)
        return {
            "episode_steps": self._episode_steps,
            "physics": physics,
            # The positions of MuJoCo's bodies are from within its last step, and lag behind qpos.
            "torso_x": self._torso_x,
            "observation": self._observation.copy(),
            "unstable_episodes": self.unstable_episodes,
        }

    def _episode_steps_of(self, state: Mapping[str, Any]) -> int:
        return int(state["episode_steps"])

    def _restore(self, state: Mapping[str, Any], task: SlipperyAntTask) -> None:
        physics = np.array(state["physics"], np.float64)
        size = self._mujoco.mj_stateSize(self._model, self._whole_state)
        if physics.shape != (size,):
            raise ValueError(
                f"The state's physics has the shape {physics.shape}, but that of MuJoCo "
                f"{self._mujoco.__version__} is ({size},): continue with the version that saved it."
            )
        self._mujoco.mj_resetData(self._model, self._data)
        self._mujoco.mj_setState(self._model, self._data, physics, self._whole_state)
        self._model.geom_friction[:, 0] = task.friction
        self._torso_x = state["torso_x"]
        self._observation = np.array(state["observation"], np.float64)
        self.unstable_episodes = state["unstable_episodes"]

    def _update_window(self) -> None:
        assert self._pictures is not None
        self._pictures.show(self._positions)

    def _picture(self) -> NDArray[np.uint8]:
        assert self._pictures is not None
        picture = self._pictures.show(self._positions)
        assert picture is not None  # not those of a window
        return picture

    def _free(self) -> None:
        if self._pictures is not None:
            self._pictures.close()

    def __getstate__(self) -> dict[str, Any]:
        own = {"include_contact_forces": self._include_contact_forces}
        return {**super().__getstate__(), **own}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._include_contact_forces = pickled["include_contact_forces"]
        super().__setstate__(pickled)


def import_mujoco() -> Any:
    """Import and return MuJoCo.

    Raises:
        ModuleNotFoundError: if it is not installed; the message says how to install it.
    """
    return import_simulator("mujoco", "The MuJoCo ant", "pip install 'plasticity[mujoco]'")


def load_ant() -> Any:
    """Load a new `mujoco.MjModel` of Gymnasium's `Ant-v5`.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    mujoco = import_mujoco()
    # Only the file: importing Gymnasium's own environments would require its rendering packages.
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / "ant.xml"))
