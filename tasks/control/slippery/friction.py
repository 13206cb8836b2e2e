"""Stream of frictions: that of the floor in each task.

Slippery-Ant (S. Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024) is a
walking ant on a floor whose friction changes at regular intervals, to a value log-uniform in [0.02, 2].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from plasticity.checks import require_integer, require_number
from plasticity.tasks.control.schedule import TaskSchedule, log_uniform, uniform_numbers
from plasticity.tasks.streams.base import Stream

MIN_FRICTION = 0.02
MAX_FRICTION = 2.0

SCHEDULES: Mapping[str, int] = {"nature": 2_000_000, "syre": 5_000_000, "small": 100_000}
"""Total steps of all environments between two changes of the friction: as published in Nature (2024),
as in syre's Fig. 6, and one small enough for two cores."""


@lru_cache(maxsize=2**16, typed=True)  # many environments ask for the same
def task_friction(seed: int, index: int) -> float:
    """Return the friction of one task, without visiting any other: log-uniform in [0.02, 2].

    Args:
        seed: Seed of the stream, 0 or more.
        index: Index of the task, from 0.

    Returns:
        A coefficient of friction, of six significant digits; each physics engine defines what it multiplies.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if one is negative.

    Examples:
        >>> friction = task_friction(seed=0, index=3)
        >>> 0.02 <= friction <= 2, friction == task_friction(seed=0, index=3)
        (True, True)
    """
    (uniform,) = uniform_numbers(seed, index)
    return log_uniform(MIN_FRICTION, MAX_FRICTION, uniform)


@dataclass(frozen=True)
class FrictionTask:
    """Task of the stream: a walker on a floor of some friction.

    Examples:
        >>> FrictionTask(index=0, friction=0.5).values()
        {'friction': 0.5}
    """

    index: int
    """Index in the stream, from 0."""

    friction: float
    """Coefficient of friction of the floor."""

    def values(self) -> dict[str, float]:
        """Return the friction by its name."""
        return {"friction": self.friction}


class FrictionStream(Stream[FrictionTask]):
    """Stream of frictions: `stream[k]` is task `k`, a pure function of (seed, k).

    Args:
        num_tasks: Length of the stream, at least 1.
        change_every: Steps from one task to the next, at least 1.
        seed: Seed of the frictions, 0 or more.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if one is out of range.

    Examples:
        >>> stream = FrictionStream(num_tasks=10, change_every=100_000, seed=0)
        >>> len(stream), stream[3].index
        (10, 3)
    """

    def __init__(self, num_tasks: int, change_every: int, seed: int) -> None:
        super().__init__(num_tasks, seed)
        self.change_every = require_integer("change_every", change_every, minimum=1)

    def make_task(self, index: int) -> FrictionTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return FrictionTask(index, task_friction(self.seed, index))

    def describe(self, index: int) -> dict[str, Any]:
        """Return the friction of a task, which a row of metrics tells besides its index."""
        return self[index].values()


@dataclass(frozen=True, kw_only=True)
class FrictionSchedule(TaskSchedule[FrictionTask]):
    """Schedule of a walker's tasks: one constant friction, or those of a stream, in turn.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; if both a friction and a stream are given, or a
            stream without its seed or its interval.
    """

    friction: float | None = None
    """Constant friction, at least 0; None: frictions follow a stream."""

    def __post_init__(self) -> None:
        if self.friction is not None:
            self._keep("friction", require_number("friction", self.friction, minimum=0))
        super().__post_init__()

    @property
    def constant(self) -> FrictionTask | None:
        """Task of the constant friction."""
        return None if self.friction is None else FrictionTask(0, self.friction)

    def make_task(self, seed: int, index: int) -> FrictionTask:
        """Return task `index` of the stream with this seed."""
        return FrictionTask(index, task_friction(seed, index))
