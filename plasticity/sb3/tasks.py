"""Tasks and finished episodes, as reported by the environments in ``info``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plasticity.checks import plain_number

__all__ = ["TaskFollower"]

Infos = Sequence[Mapping[str, Any]]
Task = int | str | None

ROW_NAMES = (
    "step", "task", "boundary", "episodes", "episode_return", "episode_length", "diverged"
)  # fmt: skip
"""Entries of every row, which `info_keys` may not name."""


class TaskFollower:
    """Tracker of the current task of vectorised environments.

    Environments change tasks one by one, as their episodes end; the first to report a new task sets it for
    all. Environments that lag behind finish episodes of the earlier task, which are then not counted. They
    pass through the same tasks in the same order, perhaps skipping some, which is not a change of task. A
    task that returns counts as a new one if the environment that reports it did not lag behind the others.

    Args:
        task_key: Entry of ``info`` that holds the task; None to follow no tasks.
        info_keys: Entries of ``info`` whose latest values are kept.

    Raises:
        TypeError: if `info_keys` is one string.
        ValueError: if it names an entry that every row has.
    """

    task: Task
    """Current task: an integer, a name, or None until one is reported."""

    info_values: dict[str, int | float | str | None]
    """Latest value for the current task of each entry of `info_keys`, None if there is none."""

    def __init__(self, task_key: str | None = "task", info_keys: Sequence[str] = ()) -> None:
        if isinstance(info_keys, str):
            raise TypeError(f"info_keys must be a list, got {info_keys!r}; put it in brackets")
        for key in info_keys:
            if key in ROW_NAMES:
                raise ValueError(f"info_keys names {key!r}, which every row has; remove it")
        self.task_key = task_key
        self.task = None
        self.info_values = dict.fromkeys(info_keys)
        self._tasks: list[Task] | None = None
        self._passed: list[Task] = []  # the tasks so far, the current one last
        self._positions: list[int] = []  # of each environment in them; -1 before its first
        self._begun_under: list[Task] = []
        self._begins: list[bool] = []
        self._ended: list[tuple[Task, float, float]] = []

    def begin(self, num_envs: int, *, reset: bool) -> None:
        """Prepare for the steps of these environments.

        Args:
            num_envs: Number of environments.
            reset: Whether they are at the start of an episode, which is so unless training continues.
        """
        if reset or len(self._begins) != num_envs:
            self._tasks = None
            self._begun_under = [None] * num_envs
            self._begins = [True] * num_envs

    def new_task(self, infos: Infos, dones: Sequence[bool]) -> Task:
        """Process one step.

        Args:
            infos: Infos of the environments; an info without a task leaves that environment's task unchanged.
            dones: Whether each environment's episode ended in this step.

        Returns:
            The new task in the step in which the first environment reports it, otherwise None. A new task
            becomes the current one only with `change`; until then, all values refer to the task that ended.

        Raises:
            TypeError: if a task is neither an integer nor a string.
        """
        new = self._first_reported([self._task_of(info) for info in infos])
        assert self._tasks is not None
        for index, info in enumerate(infos):
            if self._begins[index]:
                self._begun_under[index] = self._tasks[index]
            episode = info.get("episode")  # added by SB3's Monitor at the end of an episode
            if episode is not None:
                ended = (self._begun_under[index], float(episode["r"]), float(episode["l"]))
                self._ended.append(ended)
            self._begins[index] = bool(dones[index])
        return new

    def change(self, task: Task) -> None:
        """Make a task returned by `new_task` the current one."""
        self.task = task
        self.info_values = dict.fromkeys(self.info_values)

    def follow_values(self, infos: Infos) -> None:
        """Update the values of `info_keys` from the first environment that is on the current task."""
        if not self.info_values:
            return
        assert self._tasks is not None
        for info, task in zip(infos, self._tasks, strict=True):
            if task == self.task:
                for key in self.info_values:
                    if key in info:
                        self.info_values[key] = _plain(f"info[{key!r}]", info[key])
                return

    def take_episodes(self) -> dict[str, int | float | None]:
        """Summarize the episodes that ended since the last call and began under the current task.

        Returns:
            Their number, ``episodes``, and the means ``episode_return`` and ``episode_length`` (in steps),
            None if there are no episodes.
        """
        counted = [entry[1:] for entry in self._ended if entry[0] == self.task]
        self._ended.clear()
        returns, lengths = np.mean(counted, axis=0).tolist() if counted else (None, None)
        return {
            "episodes": len(counted),
            "episode_return": returns,
            "episode_length": lengths,
        }

    def _first_reported(self, tasks: list[Task]) -> Task:
        """Return a task that no environment had reached before this step, or None."""
        if self._tasks is None:
            return self._start(tasks)
        new: Task = None
        for index, task in enumerate(tasks):
            if task is None or task == self._tasks[index]:
                continue
            self._tasks[index] = task
            ahead = self._positions[index] + 1
            if task in self._passed[ahead:]:
                self._positions[index] = self._passed.index(task, ahead)
            else:
                new = task
                self._passed.append(task)
                self._positions[index] = len(self._passed) - 1
        return new

    def _start(self, tasks: list[Task]) -> Task:
        """Start following environments that are on these tasks."""
        self._tasks = tasks
        first = next((task for task in tasks if task is not None), None)
        if self.task is None:
            self.task = first
        # A later process may continue exactly where a task ends.
        new = None if self.task in tasks else first
        current = self.task if new is None else new
        self._passed = [] if current is None else [current]
        self._positions = [0 if task == current else -1 for task in tasks]
        return new

    def _task_of(self, info: Mapping[str, Any]) -> Task:
        value = None if self.task_key is None else info.get(self.task_key)
        if value is None or isinstance(value, str):
            return value
        task = plain_number(value)
        if not isinstance(task, int):
            raise TypeError(
                f"info[{self.task_key!r}] must be an integer or a string, got {value!r} "
                f"({type(value).__name__}); use task_key=None to follow no tasks"
            )
        return task


def _plain(name: str, value: object) -> int | float | str | None:
    if value is None or isinstance(value, (bool, str)):
        return value
    number = plain_number(value)
    if number is None:
        raise TypeError(
            f"{name} must be a number or a string to enter a row, got {value!r} ({type(value).__name__});"
            " remove it from info_keys or convert it in the environment"
        )
    return number
