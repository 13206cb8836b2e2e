"""Environments whose simulator cannot save its state: a state has the episode's start and its actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.environment import ChangingEnv, Observation
from plasticity.tasks.control.schedule import Task


class ReplayedEnv(ChangingEnv[Task]):
    """Environment that continues from a state by playing its episode again.

    Its episodes depend only on the task, on the state of `np_random` at their start, and on the actions. A
    subclass begins episodes and makes steps (`_begin`, `_play`). Loading takes as long as the episode took:
    of 1000 steps at most, as elsewhere.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._generator_at_start: Mapping[str, Any] | None = None
        self._actions: list[NDArray[Any]] = []
        super().__init__(*arguments, **keywords)

    def _begin(self, task: Task) -> Observation:
        """Begin an episode of a task, with a start that is drawn from `np_random`."""
        raise NotImplementedError

    def _play(self, action: Any) -> tuple[Observation, float, bool]:
        """Make a step; return the observation, the reward, and whether the episode terminated."""
        raise NotImplementedError

    def _start(self, task: Task) -> Observation:
        self._generator_at_start = dict(self.np_random.bit_generator.state)
        self._actions.clear()
        return self._begin(task)

    def _move(self, action: Any) -> tuple[Observation, float, bool]:
        self._actions.append(np.array(action))
        return self._play(action)

    def _save(self) -> dict[str, Any]:
        return {
            "generator_at_start": self._generator_at_start,
            "actions": np.array(self._actions),
        }

    def _episode_steps_of(self, state: Mapping[str, Any]) -> int:
        return len(state["actions"])

    def _restore(self, state: Mapping[str, Any], task: Task) -> None:
        """Play the episode again."""
        self._actions.clear()
        self._generator_at_start = None
        if state["generator_at_start"] is None:  # the saved environment was never reset
            return
        self.np_random.bit_generator.state = state["generator_at_start"]
        self._start(task)
        for number, action in enumerate(state["actions"], start=1):
            self._episode_steps = number
            self._move(self._checked(action))

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._generator_at_start, self._actions = None, []
        super().__setstate__(pickled)
