"""Levels of one game, in disjoint sets that follow each other: the stream, and the schedule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from plasticity.checks import require_integer, require_name
from plasticity.tasks.control.schedule import TaskSchedule, uniform_numbers
from plasticity.tasks.streams.base import Stream

NUM_LEVELS = 2**31 - 1
"""Number of levels that a game has: they are numbered from 0 by integers of 32 bits."""

_STARTS = 10**9


@dataclass(frozen=True)
class LevelTask:
    """Task of a stream of levels: a set of levels, which are numbered in a row."""

    index: int
    """Index in the stream, from 0."""

    first: int
    """Number of its first level."""

    count: int
    """Number of its levels."""

    def values(self) -> dict[str, Any]:
        """Return the levels by their name in a row: "23", or "400-449"."""
        last = self.first + self.count - 1
        return {"levels": str(self.first) if self.count == 1 else f"{self.first}-{last}"}


def parsed_levels(levels: str) -> LevelTask:
    """Return the task that stays at levels as a row has them.

    Args:
        levels: A level, "23", or the first and the last of several, "400-449".

    Raises:
        TypeError: if they are no text.
        ValueError: if the text is not of this form, or there are no such levels.
    """
    require_name("levels", levels)
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", levels, re.ASCII)
    first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
    if not first <= last < NUM_LEVELS:
        raise ValueError(
            f"levels must be a level from 0 to {NUM_LEVELS - 1}, such as '23', or the first and the last of"
            f" several, such as '400-449': {levels!r}."
        )
    return LevelTask(0, first, last - first + 1)


@dataclass(frozen=True, kw_only=True)
class LevelSets:
    """Disjoint sets of levels, one for each task, each beginning where the one before it ends."""

    start_level: int | None = None
    """First level of the first task. None: drawn from the seed of the stream, below a billion."""

    levels_per_task: int = 1
    """Number of levels of a task, at least 1."""

    def __post_init__(self) -> None:
        if self.start_level is not None:
            require_integer("start_level", self.start_level, minimum=0, maximum=NUM_LEVELS - 1)
        require_integer(
            "levels_per_task", self.levels_per_task, minimum=1, maximum=NUM_LEVELS - _STARTS
        )

    def make_task(self, seed: int, index: int) -> LevelTask:
        """Return task `index`: a pure function of the two.

        Raises:
            ValueError: if the game has no such levels any more.
        """
        start = self.start_level
        if start is None:
            start = int(uniform_numbers(seed, 0)[0] * _STARTS)
        first = start + index * self.levels_per_task
        if first + self.levels_per_task > NUM_LEVELS:
            raise ValueError(
                f"Task {index} would have levels from {first} to {first + self.levels_per_task - 1}, and the"
                f" last one is {NUM_LEVELS - 1}: give fewer levels_per_task, {self.levels_per_task}, a lower"
                f" start_level, {start}, or fewer tasks."
            )
        return LevelTask(index, first, self.levels_per_task)


class LevelStream(Stream[LevelTask]):
    """Stream of levels.

    Args:
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the run's stream, 0 or more.
        sets: Sets of levels that the tasks have.

    Raises:
        ValueError: if the game has too few levels for the tasks.
    """

    def __init__(self, num_tasks: int, seed: int, sets: LevelSets) -> None:
        super().__init__(num_tasks, seed)
        self._sets = sets
        self.make_task(num_tasks - 1)

    def make_task(self, index: int) -> LevelTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return self._sets.make_task(self.seed, index)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the levels of a task, which a row of metrics tells besides its index."""
        return self[index].values()


@dataclass(frozen=True, kw_only=True)
class LevelSchedule(TaskSchedule[LevelTask]):
    """Schedule of levels: those that stay, or sets in turn."""

    sets: LevelSets
    """Sets of levels that the tasks have."""

    task: LevelTask | None = None
    """Task that stays; None: the sets follow each other."""

    @property
    def constant(self) -> LevelTask | None:
        """Task that stays."""
        return self.task

    def make_task(self, seed: int, index: int) -> LevelTask:
        """Return task `index` of the stream."""
        return self.sets.make_task(seed, index)
