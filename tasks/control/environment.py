"""Environments that change from task to task, as Gymnasium knows them: episodes, tasks, states, rendering."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.display import RENDER_MODES, render_modes_here
from plasticity.tasks.control.schedule import Task, TaskSchedule, listed

Observation = NDArray[Any]


class ChangingEnv(gymnasium.Env[Observation, Any], Generic[Task]):
    """Environment whose task changes at the first reset after an interval: all but the dynamics.

    A subclass loads its simulator (`_load`), checks an action, begins episodes and makes steps
    (`_checked`, `_start`, `_move`), saves and restores its state (`_save`, `_restore`), and, if it can, draws
    (`_picture`, `_update_window`). It ends an episode itself after `max_episode_steps`: a wrapper's count of
    steps would be lost when a run is continued.

    The observation never tells the task; `info` has "task", the index, and what the task changes, by name.

    Args:
        schedule: Tasks by the steps of this environment.
        render_mode: "rgb_array", "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if the simulator is not installed.
        ValueError: if the render mode is unknown.
        RuntimeError: if the render mode does not work on this host.
    """

    metadata: dict[str, Any] = {"render_modes": [*RENDER_MODES]}  # noqa: RUF012  (declared so by Gymnasium)
    max_episode_steps: int
    """Steps after which an episode is truncated."""

    step_seconds: float
    """Simulated time of one step."""

    def __init__(self, schedule: TaskSchedule[Task], render_mode: str | None = None) -> None:
        self._schedule = schedule
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode must be None or one of {RENDER_MODES}: {render_mode!r}.")
        self.render_mode = render_mode
        # Environment checkers make an environment with each of these modes.
        self.metadata = {**self.metadata, "render_modes": render_modes_here()}
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
        """Begin an episode, in the task that is due.

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
        observation = self._start(self._task)
        self._running = True
        if self.render_mode == "human":
            self._show()
        return observation, self._info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Simulate `step_seconds`.

        Args:
            action: Element of the action space.

        Returns:
            The observation, shape (observation_size,), the reward, whether the episode terminated, whether
            this was its last step, and `info`.

        Raises:
            TypeError, ValueError: if the action is not one.
            gymnasium.error.ResetNeeded: if no episode is running.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        action = self._checked(action)
        if not self._running:
            self._require_open()
            raise gymnasium.error.ResetNeeded("The episode has ended, or none began: call reset().")
        self._steps += 1
        self._episode_steps += 1
        observation, reward, terminated = self._move(action)
        if self.render_mode == "human":
            self._show()
        truncated = self._episode_steps == self.max_episode_steps
        self._running = not (terminated or truncated)
        return observation, reward, terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        return {"task": self._task.index, **self._task.values()}

    def _show(self) -> None:
        """Update the window, in real time."""
        self._update_window()
        due = self._shown + self.step_seconds
        time.sleep(max(due - time.monotonic(), 0.0))
        self._shown = time.monotonic()

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture; the window of "human" needs no call.

        Returns:
            uint8, shape (height, width, 3), with render_mode "rgb_array"; else None.

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
            Plain numbers, strings, dictionaries of them, and arrays: the counts, the task and what it
            changes, the generator, and the state of the simulator.
        """
        return {
            "steps": self._steps,
            "running": self._running,
            "task": self._task.index,
            **self._task.values(),
            "generator": self.np_random.bit_generator.state,
            **self._save(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, in another process too.

        Raises:
            KeyError: if an entry is missing.
            ValueError: if the state was saved in another task than this environment has at that step, or the
                simulator cannot take it.
            gymnasium.error.ClosedEnvironmentError: if the environment was closed.
        """
        self._require_open()
        steps, episode_steps = state["steps"], self._episode_steps_of(state)
        task = self._schedule.task_at(steps - episode_steps)
        values = {name: state[name] for name in task.values()}
        if (task.index, task.values()) != (state["task"], values):
            raise ValueError(
                f"The state was saved at task {state['task']} with {listed(values)}, but "
                f"this environment has task {task.index} with {listed(task.values())}: make it with "
                "the arguments of the saved environment."
            )
        self._restore(state, task)
        self._task, self._steps, self._episode_steps = task, steps, episode_steps
        self._running = state["running"]
        self.np_random.bit_generator.state = state["generator"]

    def __getstate__(self) -> dict[str, Any]:
        # A simulator cannot be copied: a copy, or a pickle, makes its own and loads the state.
        return {
            "schedule": self._schedule,
            "render_mode": self.render_mode,
            "state": self.state_dict(),
        }

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        # Not the constructor of a subclass, which may take other arguments.
        ChangingEnv.__init__(self, pickled["schedule"], pickled["render_mode"])
        self.load_state_dict(pickled["state"])

    def _load(self) -> None:
        """Load the simulator, and set the spaces of observations and actions."""
        raise NotImplementedError

    def _checked(self, action: Any) -> Any:
        """Return an action as `_move` takes it, or raise a TypeError or ValueError."""
        raise NotImplementedError

    def _start(self, task: Task) -> Observation:
        """Begin an episode of a task, with a start that is drawn from `np_random`."""
        raise NotImplementedError

    def _move(self, action: Any) -> tuple[Observation, float, bool]:
        """Make a step; return the observation, the reward, and whether the episode terminated."""
        raise NotImplementedError

    def _save(self) -> dict[str, Any]:
        """Return the simulator's part of the state."""
        raise NotImplementedError

    def _episode_steps_of(self, state: Mapping[str, Any]) -> int:
        """Return the number of steps that the episode of a state had."""
        raise NotImplementedError

    def _restore(self, state: Mapping[str, Any], task: Task) -> None:
        """Restore the simulator's part of a state, in this task."""
        raise NotImplementedError

    def _update_window(self) -> None:
        """Show the present state in the window."""
        raise NotImplementedError

    def _picture(self) -> NDArray[np.uint8]:
        """Return a picture. Shape: (height, width, 3)."""
        raise NotImplementedError

    def _free(self) -> None:
        """Free the simulator; freeing twice is fine."""
        raise NotImplementedError
