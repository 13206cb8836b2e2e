"""Walkers in MuJoCo, on the CPU, on a floor that changes its friction: all but body and reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.simulators import import_simulator
from plasticity.tasks.control.slippery.environment import (
    PICTURE_HEIGHT,
    PICTURE_WIDTH,
    SlipperyEnv,
)
from plasticity.tasks.control.slippery.friction import FrictionTask

if TYPE_CHECKING:
    from plasticity.tasks.control.slippery.mujoco_pictures import Pictures, Window

MUJOCO_FRICTION = 1.0
"""Sliding coefficient of the floor and of each part of a body, in Gymnasium's environments."""

FRAME_SKIP = 5
"""Steps of the physics in a step of the environment."""

TORSO = 1
"""Index of the body that the camera follows: the torso."""


class SlipperyMujocoEnv(SlipperyEnv):
    """Walker of one of Gymnasium's MuJoCo environments that learns to run along x, as the friction changes.

    MuJoCo uses the larger of two bodies' coefficients for their contact. The friction is therefore set on
    the floor and on every part of the walker, and is thus the contact's sliding coefficient. (MuJoCo raises
    values below 1e-5 to that.) The coefficients for torsion and rolling are left unchanged, and have no
    effect on contacts that have neither.

    If MuJoCo's numbers are no longer finite, or too large, the episode ends like a fall: the reward is minus
    the cost of the action, the observation is the previous one, and `unstable_episodes` counts the episode.
    (Gymnasium's environments continue from MuJoCo's automatic reset.)

    A subclass says which body, how it starts, what it observes and how it is rewarded (`asset`,
    `_size_of_observation`, `_draw_start`, `_position`, `_control_cost`, `_observe`, `_reward`).
    """

    stock_friction = MUJOCO_FRICTION
    asset: ClassVar[str]
    """File of the body among Gymnasium's assets."""
    named: ClassVar[str]
    """Name of the environment in messages."""

    def _size_of_observation(self) -> int:
        """Return the number of entries of an observation, once the model is loaded."""
        raise NotImplementedError

    def _draw_start(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Draw the noise of an episode's first positions and velocities from `np_random`."""
        raise NotImplementedError

    def _position(self) -> float:
        """Return the position along x whose velocity is rewarded, as of the last evaluation."""
        raise NotImplementedError

    def _control_cost(self, action: NDArray[Any]) -> Any:
        """Return the cost of an action, before the step."""
        raise NotImplementedError

    def _observe(self) -> Observation:
        """Return the observation, a new array."""
        raise NotImplementedError

    def _reward(self, velocity: float, control_cost: Any) -> tuple[float, bool]:
        """Return the reward of a step, and whether the walker is healthy."""
        raise NotImplementedError

    def _load(self) -> None:
        super()._load()
        self._mujoco = mujoco = import_mujoco(self.named)
        self._model = model = load_model(self.asset, self.named)
        self._data = data = mujoco.MjData(model)
        self._whole_state = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        # Views of MuJoCo's memory, kept because every access to an attribute of its data creates a new one.
        self._positions, self._velocities = data.qpos, data.qvel
        self._controls, self._contact_forces = data.ctrl, data.cfrc_ext
        self._warnings = data.warning
        self._start_positions, self._start_velocities = data.qpos.copy(), data.qvel.copy()
        self._seconds = model.opt.timestep * FRAME_SKIP
        self._x = 0.0
        size = self._size_of_observation()
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._observation: Observation = np.zeros(size)
        self.unstable_episodes = 0
        """Number of episodes that ended because MuJoCo's numbers were no longer finite, or too large."""
        self._pictures = self._made_pictures()

    def _made_pictures(self) -> Pictures | Window | None:
        if self.render_mode is None:
            return None
        from plasticity.tasks.control.slippery import mujoco_pictures  # noqa: PLC0415  (OpenGL)

        if self.render_mode == "human":
            return mujoco_pictures.Window(self._model, TORSO)
        return mujoco_pictures.Pictures(self._model, TORSO, PICTURE_WIDTH, PICTURE_HEIGHT)

    def _start(self, task: FrictionTask) -> Observation:
        """Begin an episode near the body at rest: noise on positions and velocities."""
        self._model.geom_friction[:, 0] = task.friction
        mujoco, model, data = self._mujoco, self._model, self._data
        mujoco.mj_resetData(model, data)
        positions, velocities = self._draw_start()
        self._positions[:] = self._start_positions + positions
        self._velocities[:] = self._start_velocities + velocities
        mujoco.mj_forward(model, data)
        self._x = self._position()
        self._observation = self._observe()
        return self._observation.copy()

    def _move(self, action: NDArray[Any]) -> tuple[Observation, float, bool]:
        control_cost = self._control_cost(action)
        self._controls[:] = action
        self._mujoco.mj_step(self._model, self._data, FRAME_SKIP)
        # MuJoCo computes the contact forces on bodies only on request.
        self._mujoco.mj_rnePostConstraint(self._model, self._data)
        if self._warnings.number.any() or not math.isfinite(
            np.add.reduce(self._positions) + np.add.reduce(self._velocities)
        ):
            return self._end_lost(control_cost)
        x = self._position()
        velocity = (x - self._x) / self._seconds
        self._x = x
        self._observation = self._observe()
        reward, healthy = self._reward(velocity, control_cost)
        return self._observation.copy(), reward, not healthy

    def _end_lost(self, costs: Any) -> tuple[Observation, float, bool]:
        """Return the result of a step in which MuJoCo detected a bad state and reset the body."""
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

    def _save(self) -> dict[str, Any]:
        """Return MuJoCo's own state: time, positions, velocities, last action, the solver's warm start."""
        size = self._mujoco.mj_stateSize(self._model, self._whole_state)
        physics = np.empty(size)
        self._mujoco.mj_getState(self._model, self._data, physics, self._whole_state)
        return {
            "episode_steps": self._episode_steps,
            "physics": physics,
            # The positions of MuJoCo's bodies are from within its last step, and lag behind qpos.
            "x": self._x,
            "observation": self._observation.copy(),
            "unstable_episodes": self.unstable_episodes,
        }

    def _episode_steps_of(self, state: Mapping[str, Any]) -> int:
        return int(state["episode_steps"])

    def _restore(self, state: Mapping[str, Any], task: FrictionTask) -> None:
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
        self._x = state["x"]
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


def import_mujoco(needed_by: str) -> Any:
    """Import and return MuJoCo.

    Raises:
        ModuleNotFoundError: if it is not installed; the message says how to install it.
    """
    return import_simulator("mujoco", needed_by, "pip install 'plasticity[mujoco]'")


def load_model(asset: str, needed_by: str) -> Any:
    """Load a new `mujoco.MjModel` of one of Gymnasium's bodies.

    Args:
        asset: Name of the file.
        needed_by: Environment that needs it, for the error message.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    mujoco = import_mujoco(needed_by)
    # Only the file: importing Gymnasium's own environments would require its rendering packages.
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / asset))
