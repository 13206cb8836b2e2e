"""Base of environments that are seen as images alone: discrete actions, no pictures, a limit of steps."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_integer
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.control.schedule import Task, TaskSchedule


class ScreenEnv(ReplayedEnv[Task]):
    """Environment whose observations are images, uint8 with the channels first; a subclass plays it.

    The observation never tells the task by more than its picture. An episode that reaches `max_episode_steps`
    is truncated. There are no pictures beside the observations.

    Args:
        schedule: Tasks by the steps of this environment.
        max_episode_steps: Steps after which an episode is truncated, at least 1.
        render_mode: None.

    Raises:
        ModuleNotFoundError: if the package of the game is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.
    """

    kept: ClassVar[tuple[str, ...]] = ("max_episode_steps",)
    """Attributes that a copy has from the beginning."""

    metadata = ReplayedEnv.metadata | {"render_modes": []}

    def __init__(
        self, schedule: TaskSchedule[Task], *, max_episode_steps: int, render_mode: str | None
    ) -> None:
        if render_mode is not None:
            raise ValueError(
                f"render_mode must be None, as the observations are pictures: {render_mode!r}."
            )
        self.max_episode_steps = require_integer("max_episode_steps", max_episode_steps, minimum=1)
        super().__init__(schedule)

    def _load(self) -> None:
        self.metadata = {**self.metadata, "render_modes": []}
        self._open()

    def _open(self) -> None:
        """Import the package of the game, and set the spaces of observations and actions."""
        raise NotImplementedError

    def _checked(self, action: Any) -> int:
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        try:
            number = operator.index(action)
        except TypeError as error:
            raise TypeError(
                f"The action must be an integer, not {action!r}: give one from 0 to {space.n - 1}."
            ) from error
        if not 0 <= number < space.n:
            raise ValueError(f"The action must be from 0 to {space.n - 1}: {number}.")
        return number

    def _update_window(self) -> None:
        """Do nothing: there is no window."""

    def _picture(self) -> NDArray[np.uint8]:
        raise NotImplementedError("There are no pictures beside the observations.")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        for name in self.kept:
            setattr(self, name, pickled[name])
        super().__setstate__(pickled)
