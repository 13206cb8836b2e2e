"""Slippery-Ant in MuJoCo: the walking ant of `Ant-v5` on a floor that changes its friction."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.actions import checked_action
from plasticity.tasks.control.ant.bullet import MAX_EPISODE_STEPS
from plasticity.tasks.control.ant.bullet_simulation import NUM_JOINTS
from plasticity.tasks.control.display import RENDER_MODES, render_modes_here
from plasticity.tasks.control.friction import FrictionSchedule

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
_WIDTH, _HEIGHT = 320, 240

Observation = NDArray[np.float64]


class SlipperyAntMujocoEnv(gymnasium.Env[Observation, NDArray[Any]]):
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
        task_seed: Seed of the stream of frictions, 0 or more. It is independent of the seed of `reset`, which
            determines how an episode starts, so that parallel environments can share one stream.
        num_tasks: Length of the stream; its last task stays. None: the stream is endless.
        change_every: Steps of this environment from one task to the next. The friction changes at the first
            reset after that, so that an episode has one friction. If this is less than the length of an
            episode, up to 1000 steps, tasks are skipped.
        include_contact_forces: Whether to observe all 105 entries, as `Ant-v5` does by default.
        render_mode: "rgb_array" (needs OpenGL, but no display), "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if there is no OpenGL for a render mode, or no display for "human".
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (declared so by Gymnasium)
        "render_modes": [*RENDER_MODES],
        "render_fps": 20,
    }

    def __init__(
        self,
        friction: float | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        include_contact_forces: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._arguments = {
            "friction": friction,
            "task_seed": task_seed,
            "num_tasks": num_tasks,
            "change_every": change_every,
            "include_contact_forces": include_contact_forces,
            "render_mode": render_mode,
        }
        if (friction, task_seed, num_tasks, change_every) == (None,) * 4:
            friction = MUJOCO_FRICTION
        self._schedule = FrictionSchedule(friction, task_seed, num_tasks, change_every)
        if not isinstance(include_contact_forces, bool):
            raise TypeError(
                f"include_contact_forces must be True or False: {include_contact_forces!r}."
            )
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}: {render_mode!r}.")
        self.render_mode = render_mode
        # Environment checkers make an environment with each of these modes.
        self.metadata = {**self.metadata, "render_modes": render_modes_here()}
        self._include_contact_forces = include_contact_forces
        self._load()
        self._pictures = self._made_pictures()
        self._steps = 0
        self._episode_steps = 0
        self.unstable_episodes = 0
        """Number of episodes that ended because MuJoCo's numbers were no longer finite, or too large."""
        self._observation: Observation = np.zeros(self._observation_size)
        self._shown = 0.0
        self._running = False
        self._closed = False
        self._task = self._schedule.task_at(0)

    def _load(self) -> None:
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
        self._observation_size = size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (NUM_JOINTS,), np.float32)

    def _made_pictures(self) -> Pictures | Window | None:
        if self.render_mode is None:
            return None
        from plasticity.tasks.control.ant import mujoco_pictures  # noqa: PLC0415  (OpenGL)

        if self.render_mode == "human":
            return mujoco_pictures.Window(self._model, _TORSO)
        return mujoco_pictures.Pictures(self._model, _TORSO, _WIDTH, _HEIGHT)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode, at positions and velocities near those of the ant at rest, at 0.75 m of height.

        Args:
            seed: Seed of `np_random`; None: keep its state. The count of steps continues in either case.
            options: Not used.

        Returns:
            The observation, shape (27,), or (105,) with contact forces, and `info`.

        Raises:
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        super().reset(seed=seed, options=options)
        self._task = self._schedule.task_at(self._steps)
        self._set_friction()
        mujoco, model, data = self._mujoco, self._model, self._data
        mujoco.mj_resetData(model, data)
        noise = self.np_random.uniform(-RESET_NOISE, RESET_NOISE, model.nq)
        self._positions[:] = self._start_positions + noise
        noise = RESET_NOISE * self.np_random.standard_normal(model.nv)
        self._velocities[:] = self._start_velocities + noise
        mujoco.mj_forward(model, data)
        self._torso_x = self._torso_position.item(0)
        self._episode_steps = 0
        self._running = True
        if self.render_mode == "human":
            self._show()
        self._observation = self._observe(self._clipped_contact_forces())
        return self._observation.copy(), self._info()

    def _set_friction(self) -> None:
        self._model.geom_friction[:, 0] = self._task.friction

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let the ant move for 50 ms.

        Args:
            action: Finite real numbers, whose absolute values add up to at most 1e15. Shape: (8,).

        Returns:
            The observation, shape (27,), or (105,) with contact forces, the reward, whether the torso was
            too low or too high, whether this was the 1000th step, and `info`.

        Raises:
            TypeError: if the entries of the action are not real numbers.
            ValueError: if the action has another shape, an entry that is not finite, or absolute values whose
                sum is above 1e15.
            gymnasium.error.ResetNeeded: if no episode is running.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
            RuntimeError: if MuJoCo had no room for all contacts.
        """
        action = checked_action(action)
        if not self._running:
            self._require_open()
            raise gymnasium.error.ResetNeeded("The episode has ended, or none began: call reset().")
        # In the action's own precision, as in the reference.
        costs = CONTROL_COST * np.add.reduce(np.square(action))
        self._controls[:] = action
        self._mujoco.mj_step(self._model, self._data, FRAME_SKIP)
        # MuJoCo computes the contact forces on bodies only on request.
        self._mujoco.mj_rnePostConstraint(self._model, self._data)
        self._steps += 1
        self._episode_steps += 1
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
        if self.render_mode == "human":
            self._show()
        truncated = self._episode_steps == MAX_EPISODE_STEPS
        self._running = healthy and not truncated
        self._observation = self._observe(forces)
        return self._observation.copy(), reward, not healthy, truncated, self._info()

    def _end_lost(self, costs: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
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
        truncated = self._episode_steps == MAX_EPISODE_STEPS
        return self._observation.copy(), -float(costs), True, truncated, self._info()

    def _clipped_contact_forces(self) -> Observation:
        """Return the clipped torque and force on each body, the world first; shape (14, 6)."""
        clipped: Observation = self._contact_forces.clip(-CONTACT_FORCE_LIMIT, CONTACT_FORCE_LIMIT)
        return clipped

    def _observe(self, contact_forces: Observation) -> Observation:
        # The ant's position along x and y is not observed.
        if not self._include_contact_forces:
            return np.concatenate((self._positions[2:], self._velocities))
        return np.concatenate((self._positions[2:], self._velocities, contact_forces[1:].ravel()))

    def _info(self) -> dict[str, Any]:
        return {"task": self._task.index, "friction": self._task.friction}

    def _show(self) -> None:
        """Update the window, in real time."""
        assert self._pictures is not None
        self._pictures.show(self._positions)
        due = self._shown + STEP_SECONDS
        time.sleep(max(due - time.monotonic(), 0.0))
        self._shown = time.monotonic()

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture from a camera that follows the ant; the window of "human" needs no call.

        Returns:
            uint8, shape (240, 320, 3), with render_mode "rgb_array"; else None.

        Raises:
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        if self.render_mode != "rgb_array":
            return None
        assert self._pictures is not None
        return self._pictures.show(self._positions)

    def close(self) -> None:
        """Close the window, or free the renderer; closing twice is fine."""
        self._running = False
        self._closed = True
        if self._pictures is not None:
            self._pictures.close()

    def _require_open(self) -> None:
        if self._closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "The environment was closed: make a new one."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on; `load_state_dict` continues from it bitwise identically.

        Returns:
            Plain numbers, strings, dictionaries of them, and an array: MuJoCo's own state, which has the
            time, positions, velocities, last action and the solver's warm start.
        """
        size = self._mujoco.mj_stateSize(self._model, self._whole_state)
        physics = np.empty(size)
        self._mujoco.mj_getState(self._model, self._data, physics, self._whole_state)
        return {
            "steps": self._steps,
            "episode_steps": self._episode_steps,
            "running": self._running,
            "task": self._task.index,
            "friction": self._task.friction,
            "generator": self.np_random.bit_generator.state,
            "physics": physics,
            # The positions of MuJoCo's bodies are from within its last step, and lag behind qpos.
            "torso_x": self._torso_x,
            "observation": self._observation.copy(),
            "unstable_episodes": self.unstable_episodes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            KeyError: if an entry is missing.
            ValueError: if the state was saved with another friction than this environment has at that step,
                or by a version of MuJoCo whose states have another size.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        task = self._schedule.task_at(state["steps"] - state["episode_steps"])
        if (task.index, task.friction) != (state["task"], state["friction"]):
            raise ValueError(
                f"The state was saved at task {state['task']} with friction {state['friction']:g}, but "
                f"this environment has task {task.index} with friction {task.friction:g}: make it with "
                "the arguments of the saved environment."
            )
        physics = np.array(state["physics"], np.float64)
        size = self._mujoco.mj_stateSize(self._model, self._whole_state)
        if physics.shape != (size,):
            raise ValueError(
                f"The state's physics has the shape {physics.shape}, but that of MuJoCo "
                f"{self._mujoco.__version__} is ({size},): continue with the version that saved it."
            )
        self._mujoco.mj_resetData(self._model, self._data)
        self._mujoco.mj_setState(self._model, self._data, physics, self._whole_state)
        self._task, self._torso_x = task, state["torso_x"]
        self._set_friction()
        self._steps, self._episode_steps = state["steps"], state["episode_steps"]
        self._running = state["running"]
        self._observation = np.array(state["observation"], np.float64)
        self.unstable_episodes = state["unstable_episodes"]
        self.np_random.bit_generator.state = state["generator"]

    def __getstate__(self) -> dict[str, Any]:
        # The renderer cannot be copied: a copy, or a pickle, makes its own.
        return {"arguments": self._arguments, "state": self.state_dict()}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        SlipperyAntMujocoEnv.__init__(self, **pickled["arguments"])
        self.load_state_dict(pickled["state"])


def import_mujoco() -> Any:
    """Import and return MuJoCo.

    Raises:
        ModuleNotFoundError: if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
        raise ModuleNotFoundError(
            "The MuJoCo ant needs MuJoCo, which is not installed: pip install 'plasticity[mujoco]'.",
            name="mujoco",
        ) from error


def load_ant() -> Any:
    """Load a new `mujoco.MjModel` of Gymnasium's `Ant-v5`.

    Raises:
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    mujoco = import_mujoco()
    # Only the file: importing Gymnasium's own environments would require its rendering packages.
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjModel.from_xml_path(str(assets / "ant.xml"))
