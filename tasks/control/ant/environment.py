"""Gymnasium side of the walking ants, the same for every engine: tasks, episodes, states, rendering."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.actions import NUM_JOINTS, checked_action
from plasticity.tasks.control.display import RENDER_MODES, render_modes_here
from plasticity.tasks.control.friction import FrictionSchedule

MAX_EPISODE_STEPS = 1000
"""Steps after which an episode is truncated."""

PICTURE_WIDTH, PICTURE_HEIGHT = 320, 240
"""Size of rendered pictures, in pixels."""

Observation = NDArray[Any]


class SlipperyAntEnv(gymnasium.Env[Observation, NDArray[Any]]):
    """Ant with four legs that learns to run, on a floor whose friction changes: all but the physics.

    A subclass loads a simulator (`_load`), begins episodes in it and moves the ant (`_start`, `_move`), saves
    and restores its state, draws it and frees it.

    Args:
        friction: Constant friction, at least 0. None, without a stream: `stock_friction`.
        task_seed: Seed of the stream of frictions, 0 or more. It is independent of the seed of `reset`, which
            determines how an episode starts, so that parallel environments can share one stream.
        num_tasks: Length of the stream; its last task stays. None: the stream is endless.
        change_every: Steps of this environment from one task to the next. The friction changes at the first
            reset after that, so that an episode has one friction. If this is less than the length of an
            episode, up to 1000 steps, tasks are skipped.
        render_mode: "rgb_array", "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if the simulator is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if the render mode does not work on this host.
    """

    metadata: dict[str, Any] = {"render_modes": [*RENDER_MODES]}  # noqa: RUF012  (declared so by Gymnasium)
    stock_friction: ClassVar[float]
    """Friction of the published environment, the default."""

    step_seconds: ClassVar[float]
    """Simulated time of one step."""

    def __init__(
        self,
        friction: float | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        stream = {"task_seed": task_seed, "num_tasks": num_tasks, "change_every": change_every}
        self._arguments = {"friction": friction, **stream, "render_mode": render_mode}
        if friction is None and not any(value is not None for value in stream.values()):
            friction = self.stock_friction
        self._schedule = FrictionSchedule(friction, **stream)
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}: {render_mode!r}.")
        self.render_mode = render_mode
        # Environment checkers make an environment with each of these modes.
        self.metadata = {**self.metadata, "render_modes": render_modes_here()}
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (NUM_JOINTS,), np.float32)
        self._steps = 0
        self._episode_steps = 0
        self._shown = 0.0
        self._running = False
        self._closed = False
        self._task = self._schedule.task_at(0)
        self._load()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode, at a state near that of the ant at rest.

        Args:
            seed: Seed of `np_random`; None: keep its state. The count of steps continues in either case.
            options: Not used.

        Returns:
            The observation, shape (observation_size,), and `info`.

        Raises:
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        super().reset(seed=seed, options=options)
        self._task = self._schedule.task_at(self._steps)
        self._episode_steps = 0
        observation = self._start(self._task.friction)
        self._running = True
        if self.render_mode == "human":
            self._show()
        return observation, self._info()

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let the ant move for `step_seconds`.

        Args:
            action: Finite real numbers, whose absolute values add up to at most 1e15. Shape: (8,).

        Returns:
            The observation, shape (observation_size,), the reward, whether the ant fell or jumped too high,
            whether this was the 1000th step, and `info`.

        Raises:
            TypeError: if the entries of the action are not real numbers.
            ValueError: if the action has another shape, an entry that is not finite, or absolute values whose
                sum is above 1e15.
            gymnasium.error.ResetNeeded: if no episode is running.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
            FloatingPointError: if Bullet's numbers are no longer finite.
            RuntimeError: if MuJoCo had no room for all contacts.
        """
        action = checked_action(action)
        if not self._running:
            self._require_open()
            raise gymnasium.error.ResetNeeded("The episode has ended, or none began: call reset().")
        self._steps += 1
        self._episode_steps += 1
        observation, reward, terminated = self._move(action)
        if self.render_mode == "human":
            self._show()
        truncated = self._episode_steps == MAX_EPISODE_STEPS
        self._running = not (terminated or truncated)
        return observation, reward, terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        return {"task": self._task.index, "friction": self._task.friction}

    def _show(self) -> None:
        """Update the window, in real time."""
        self._update_window()
        due = self._shown + self.step_seconds
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
        return self._picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the simulator and close its window; closing twice is fine."""
        self._running = False
        self._closed = True
        self._free()

    def _require_open(self) -> None:
        if self._closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "The environment was closed: make a new one."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on; `load_state_dict` continues from it bitwise identically.

        Returns:
            Plain numbers, strings, dictionaries of them, and arrays: the counts, the task, the generator, and
            the state of the simulator.
        """
        return {
            "steps": self._steps,
            "running": self._running,
            "task": self._task.index,
            "friction": self._task.friction,
            "generator": self.np_random.bit_generator.state,
            **self._save(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, in another process too.

        Raises:
            KeyError: if an entry is missing.
            ValueError: if the state was saved with another friction than this environment has at that step,
                or by a version of MuJoCo whose states have another size.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        steps, episode_steps = state["steps"], self._episode_steps_of(state)
        task = self._schedule.task_at(steps - episode_steps)
        if (task.index, task.friction) != (state["task"], state["friction"]):
            raise ValueError(
                f"The state was saved at task {state['task']} with friction {state['friction']:g}, but "
                f"this environment has task {task.index} with friction {task.friction:g}: make it with "
                "the arguments of the saved environment."
            )
        self._restore(state, task.friction)
        self._task, self._steps, self._episode_steps = task, steps, episode_steps
        self._running = state["running"]
        self.np_random.bit_generator.state = state["generator"]

    def __getstate__(self) -> dict[str, Any]:
        # A simulator cannot be copied: a copy, or a pickle, makes its own and loads the state.
        return {"arguments": self._arguments, "state": self.state_dict()}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        # Not the constructor of a subclass, which may take other arguments.
        SlipperyAntEnv.__init__(self, **pickled["arguments"])
        self.load_state_dict(pickled["state"])

    def _load(self) -> None:
        """Load the simulator, and set the observation space."""
        raise NotImplementedError

    def _start(self, friction: float) -> Observation:
        """Place the ant at the start of an episode, drawn from `np_random`, on a floor of this friction."""
        raise NotImplementedError

    def _move(self, action: NDArray[Any]) -> tuple[Observation, float, bool]:
        """Move the ant for a step; return the observation, the reward, and whether the episode terminated."""
        raise NotImplementedError

    def _save(self) -> dict[str, Any]:
        """Return the simulator's part of the state."""
        raise NotImplementedError

    def _episode_steps_of(self, state: Mapping[str, Any]) -> int:
        """Return the number of steps that the episode of a state had."""
        raise NotImplementedError

    def _restore(self, state: Mapping[str, Any], friction: float) -> None:
        """Restore the simulator's part of a state, on a floor of this friction."""
        raise NotImplementedError

    def _update_window(self) -> None:
        """Show the ant's present state in the window."""
        raise NotImplementedError

    def _picture(self) -> NDArray[np.uint8]:
        """Return a picture. Shape: (240, 320, 3)."""
        raise NotImplementedError

    def _free(self) -> None:
        """Free the simulator; freeing twice is fine."""
        raise NotImplementedError
