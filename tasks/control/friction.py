"""Stream of Slippery-Ant tasks: the friction of the floor in each.

Slippery-Ant (S. Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024) is a
walking ant on a floor whose friction changes at regular intervals, to a value log-uniform in [0.02, 2].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plasticity.checks import require_integer, require_number
from plasticity.tasks.streams.base import Stream

MIN_FRICTION = 0.02
MAX_FRICTION = 2.0

SCHEDULES: Mapping[str, int] = {"nature": 2_000_000, "syre": 5_000_000, "small": 100_000}
"""Total steps of all environments between two changes of the friction: as published in Nature (2024),
as in syre's Fig. 6, and one small enough for two cores."""


def task_friction(seed: int, index: int) -> float:
    """Return the friction of one task, without visiting any other.

    It is log-uniform in [0.02, 2], rounded to six significant digits, so that it does not depend on
    the last bit of a machine's power function. The random number is the raw output of PCG64, seeded by
    `SeedSequence(seed, spawn_key=(index,))`. numpy guarantees that neither ever changes.

    Args:
        seed: Seed of the stream, 0 or more.
        index: Index of the task, from 0.

    Returns:
        A coefficient of friction; each physics engine defines what it multiplies.

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
    """Task of the stream: an ant on a floor of some friction."""

    index: int
    """Index in the stream, from 0."""

    friction: float
    """Coefficient of friction of the floor."""


class SlipperyAnt(Stream[SlipperyAntTask]):
    """Stream of Slippery-Ant tasks: `stream[k]` is task `k`, a pure function of (seed, k).

    Args:
        num_tasks: Length of the stream, at least 1.
        change_every: Steps from one task to the next, at least 1.
        seed: Seed of the frictions, 0 or more.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if one is out of range.
    """

    def __init__(self, num_tasks: int, change_every: int, seed: int) -> None:
        super().__init__(num_tasks, seed)
        self.change_every = require_integer("change_every", change_every, minimum=1)

    def make_task(self, index: int) -> SlipperyAntTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return SlipperyAntTask(index, task_friction(self.seed, index))

    def describe(self, index: int) -> dict[str, Any]:
        """Return the friction of a task, which a row of metrics tells besides its index."""
        return {"friction": self[index].friction}


@dataclass(frozen=True)
class FrictionSchedule:
    """Schedule of an environment's tasks: one constant friction, or those of a stream, in turn.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; if both a friction and a stream are given, or a
            stream without its seed or its interval.
    """

    friction: float | None = None
    """Constant friction, at least 0; None: frictions follow a stream."""

    task_seed: int | None = None
    """Seed of the stream, 0 or more. Environments with the same seed have the same frictions."""

    num_tasks: int | None = None
    """Length of the stream, at least 1: its last task stays. None: the stream is endless."""

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
                    f"friction = {self.friction!r} is for a constant friction, {' and '.join(given)} for "
                    "a stream of frictions: give one or the other."
                )
            return
        if self.task_seed is None or self.change_every is None:
            raise ValueError(
                "A stream of frictions needs task_seed and change_every: "
                f"{self.task_seed!r}, {self.change_every!r}. For a constant friction, give friction."
            )
        for name in given:
            minimum = 0 if name == "task_seed" else 1
            self._keep(name, require_integer(name, stream[name], minimum=minimum))

    def _keep(self, name: str, value: float) -> None:
        # Converted to Python's own numbers, which every format of a state or a log can store.
        object.__setattr__(self, name, value)

    def task_at(self, steps: int) -> SlipperyAntTask:
        """Return the task of an episode that begins after `steps` steps of the environment."""
        if self.task_seed is None or self.change_every is None:
            assert self.friction is not None  # by __post_init__
            return SlipperyAntTask(0, self.friction)
        index = steps // self.change_every
        if self.num_tasks is not None:
            index = min(index, self.num_tasks - 1)
        return SlipperyAntTask(index, task_friction(self.task_seed, index))
