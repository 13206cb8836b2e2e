"""The stream of Slippery-Ant: the friction of the floor, task by task.

Slippery-Ant (S. Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024) is a
walking ant whose floor changes its friction every so many steps, to a value log-uniform in [0.02, 2].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from plasticity.checks import require_integer, require_number

MIN_FRICTION = 0.02
MAX_FRICTION = 2.0

SCHEDULES: Mapping[str, int] = {"nature": 2_000_000, "syre": 5_000_000, "small": 100_000}
"""Steps of all environments together between two changes of the friction: as published in Nature (2024),
as in syre's Fig. 6, and one for two cores."""


def task_friction(seed: int, index: int) -> float:
    """Return the friction of one task, without visiting any other.

    It is log-uniform in [0.02, 2], rounded to six significant digits, so that the last bit of a
    machine's power function does not show. The random number is the raw output of PCG64, seeded by
    `SeedSequence(seed, spawn_key=(index,))`: the two that numpy promises never to change.

    Args:
        seed: Of the stream, 0 or more.
        index: Of the task, from 0.

    Returns:
        A coefficient of friction; what it multiplies is the matter of each physics engine.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if one is negative.
    """
    seed = require_integer("seed", seed, minimum=0)
    index = require_integer("index", index, minimum=0)
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))).random_raw()
    uniform = (raw >> 11) / 2**53
    return float(f"{MIN_FRICTION * (MAX_FRICTION / MIN_FRICTION) ** uniform:.6g}")


@dataclass(frozen=True)
class SlipperyAntTask:
    """One task: an ant on a floor."""

    index: int
    """Place in the stream, from 0."""

    friction: float
    """Of the floor."""


class SlipperyAnt:
    """The stream of Slippery-Ant's tasks: `stream[k]` is task `k`, a pure function of (seed, k).

    Args:
        num_tasks: Length of the stream, at least 1.
        change_every: Steps from one task to the next, at least 1.
        seed: Of the frictions, 0 or more.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if one is out of range.
    """

    def __init__(self, num_tasks: int, change_every: int, seed: int) -> None:
        self.num_tasks = require_integer("num_tasks", num_tasks, minimum=1)
        self.change_every = require_integer("change_every", change_every, minimum=1)
        self.seed = require_integer("seed", seed, minimum=0)

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: int) -> SlipperyAntTask:
        """Return a task of the stream.

        Args:
            index: Of the task, from 0; there is no counting from the end.

        Raises:
            TypeError: if the index is not an integer; slices are none.
            IndexError: if there is no such task.
        """
        try:
            number = require_integer("The index of a task", index, minimum=0)
        except ValueError as error:
            raise IndexError(str(error)) from None
        if number >= self.num_tasks:
            raise IndexError(
                f"The stream has the tasks 0 to {self.num_tasks - 1}: {number}. "
                "A larger num_tasks makes it longer and leaves its tasks as they are."
            )
        return SlipperyAntTask(number, task_friction(self.seed, number))

    def __iter__(self) -> Iterator[SlipperyAntTask]:
        return (self[index] for index in range(self.num_tasks))


@dataclass(frozen=True)
class FrictionSchedule:
    """Which task an environment is at: one friction for ever, or a stream's, in turn.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; if a friction is given together with a stream, or
            a stream without its seed or its interval.
    """

    friction: float | None = None
    """The one friction, at least 0; None: there is a stream."""

    task_seed: int | None = None
    """Seed of the stream, 0 or more. Environments that share it share the frictions."""

    num_tasks: int | None = None
    """Length of the stream, at least 1: its last task stays. None: it has no end."""

    change_every: int | None = None
    """Steps of this environment from one task to the next, at least 1. A task that begins and ends within
    one episode is skipped."""

    def __post_init__(self) -> None:
        stream = {name: getattr(self, name) for name in ("task_seed", "change_every", "num_tasks")}
        given = [name for name, value in stream.items() if value is not None]
        if self.friction is not None:
            self._keep("friction", require_number("friction", self.friction, minimum=0))
            if given:
                raise ValueError(
                    f"friction = {self.friction!r} is for one friction, {' and '.join(given)} for "
                    "a stream of them: give one or the other."
                )
            return
        if self.task_seed is None or self.change_every is None:
            raise ValueError(
                "A stream of frictions needs task_seed and change_every: "
                f"{self.task_seed!r}, {self.change_every!r}. For one friction, give friction."
            )
        for name in given:
            minimum = 0 if name == "task_seed" else 1
            self._keep(name, require_integer(name, stream[name], minimum=minimum))

    def _keep(self, name: str, value: float) -> None:
        # Python's own numbers, which every format of a state or a log takes, whatever was given.
        object.__setattr__(self, name, value)

    def task_at(self, steps: int) -> SlipperyAntTask:
        """Return the task of an episode that begins when the environment has made so many steps."""
        if self.task_seed is None or self.change_every is None:
            assert self.friction is not None  # by __post_init__
            return SlipperyAntTask(0, self.friction)
        index = steps // self.change_every
        if self.num_tasks is not None:
            index = min(index, self.num_tasks - 1)
        return SlipperyAntTask(index, task_friction(self.task_seed, index))
