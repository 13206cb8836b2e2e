"""What the environments tell in their ``info``: the task that they are on, the episodes that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["TaskFollower"]

Infos = Sequence[Mapping[str, Any]]
Task = int | str | None

ROW_NAMES = (
    "step", "task", "boundary", "episodes", "episode_return", "episode_length", "diverged"
)  # fmt: skip
"""Entries that every row has: `info_keys` may not name them."""


class TaskFollower:
    """Follows vectorised environments from task to task.

    The environments change their tasks one by one, as their episodes end: the first to report a new task
    sets it for all. Those that are late finish episodes of the earlier task, which then count nowhere; they
    come through the same tasks in the same order, perhaps leaving some out, and this is no change of task.
    A task that comes back is one again where the environment that reports it had come as far as the others.

    Args:
        task_key: Entry of ``info`` that tells the task; None to follow no tasks.
        info_keys: Entries of ``info`` to keep the newest value of.

    Raises:
        TypeError: if `info_keys` is one string.
        ValueError: if it names an entry that every row has.
    """

    task: Task
    """The newest task: an integer, a name, or None as long as none was reported."""

    info_values: dict[str, int | float | str | None]
    """By entry of `info_keys`: the value for the newest task; None without one."""

    def __init__(self, task_key: str | None = "task", info_keys: Sequence[str] = ()) -> None:
        if isinstance(info_keys, str):
            raise TypeError(f"info_keys must be a list, got {info_keys!r}; put it in brackets")
        for key in info_keys:
            if key in ROW_NAMES:
                raise ValueError(f"info_keys names {key!r}, which every row has; leave it out")
        self.task_key = task_key
        self.task = None
        self.info_values = dict.fromkeys(info_keys)
        self._tasks: list[Task] | None = None
        self._passed: list[Task] = []  # the tasks so far, the current one last
        self._places: list[int] = []  # how far each environment has come in them; -1: not yet
        self._begun_under: list[Task] = []
        self._begins: list[bool] = []
        self._ended: list[tuple[Task, float, float]] = []

    def begin(self, num_envs: int, *, reset: bool) -> None:
        """Get ready for steps of these environments.

        Args:
            num_envs: Their number.
            reset: Whether they stand at the start of an episode, as they do unless training goes on.
        """
        if reset or len(self._begins) != num_envs:
            self._tasks = None
            self._begun_under = [None] * num_envs
            self._begins = [True] * num_envs

    def new_task(self, infos: Infos, dones: Sequence[bool]) -> Task:
        """Take in one step.

        Args:
            infos: Of each environment; one without a task leaves it as it was.
            dones: Whether its episode ended in this step.

        Returns:
            The new task, in the step in which an environment is the first to report it; else None. Then
            `change` must make it the current one: what is asked before that is about the task that ended.

        Raises:
            TypeError: if a task is neither an integer nor a string.
        """
        new = self._news([self._task_of(info) for info in infos])
        assert self._tasks is not None
        for index, info in enumerate(infos):
            if self._begins[index]:
                self._begun_under[index] = self._tasks[index]
            episode = info.get("episode")  # of SB3's Monitor, at an episode's end
            if episode is not None:
                ended = (self._begun_under[index], float(episode["r"]), float(episode["l"]))
                self._ended.append(ended)
            self._begins[index] = bool(dones[index])
        return new

    def change(self, task: Task) -> None:
        """Go over to the task that `new_task` gave."""
        self.task = task
        self.info_values = dict.fromkeys(self.info_values)

    def follow_values(self, infos: Infos) -> None:
        """Take the values of `info_keys` from the first environment that is on the current task."""
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
        """Episodes that ended since the last call and began under the current task.

        Returns:
            Their number, ``episodes``, and the means ``episode_return`` and ``episode_length`` (in steps),
            None without any.
        """
        counted = [entry[1:] for entry in self._ended if entry[0] == self.task]
        self._ended.clear()
        returns, lengths = np.mean(counted, axis=0).tolist() if counted else (None, None)
        return {
            "episodes": len(counted),
            "episode_return": returns,
            "episode_length": lengths,
        }

    def _news(self, tasks: list[Task]) -> Task:
        """The task past all that were passed, if an environment has gone on to one in this step."""
        if self._tasks is None:
            return self._start(tasks)
        news: Task = None
        for index, task in enumerate(tasks):
            if task is None or task == self._tasks[index]:
                continue
            self._tasks[index] = task
            ahead = self._places[index] + 1
            if task in self._passed[ahead:]:
                self._places[index] = self._passed.index(task, ahead)
            else:
                news = task
                self._passed.append(task)
                self._places[index] = len(self._passed) - 1
        return news

    def _start(self, tasks: list[Task]) -> Task:
        """Start to follow environments that have these tasks."""
        self._tasks = tasks
        first = next((task for task in tasks if task is not None), None)
        if self.task is None:
            self.task = first
        # A later process may go on just where a task ends.
        news = None if self.task in tasks else first
        current = self.task if news is None else news
        self._passed = [] if current is None else [current]
        self._places = [0 if task == current else -1 for task in tasks]
        return news

    def _task_of(self, info: Mapping[str, Any]) -> Task:
        value = None if self.task_key is None else info.get(self.task_key)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0:
            value = value.item()
        if not isinstance(value, Integral):
            raise TypeError(
                f"info[{self.task_key!r}] must be an integer or a string, got {value!r} "
                f"({type(value).__name__}); task_key=None follows no tasks"
            )
        return int(value)


def _plain(name: str, value: object) -> int | float | str | None:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{name} must be a number or a string for a row, got {type(value).__name__}")
