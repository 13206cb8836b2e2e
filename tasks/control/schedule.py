"""Schedule by which an environment changes: one constant task, or the tasks of a stream, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from plasticity.checks import require_integer


class EnvironmentTask(Protocol):
    """Task of an environment that changes."""

    @property
    def index(self) -> int:
        """Index in the stream, from 0."""

    def values(self) -> dict[str, Any]:
        """Return what the task changes, a number or a text, by name: `{"friction": 0.31}`."""


Task = TypeVar("Task", bound=EnvironmentTask)
"""Kind of the tasks of an environment."""


@dataclass(frozen=True, kw_only=True)
class TaskSchedule(Generic[Task]):
    """Schedule of an environment's tasks. A subclass makes the tasks, and may have a constant one.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range; if both a constant task and a stream are given, or a stream
            without its seed or its interval.
    """

    task_seed: int | None = None
    """Seed of the stream, 0 or more. Environments with the same seed have the same tasks."""

    num_tasks: int | None = None
    """Length of the stream, at least 1: its last task stays. None: the stream is endless."""

    change_every: int | None = None
    """Steps of this environment from one task to the next, at least 1. A task that begins and ends within
    one episode is skipped."""

    @property
    def constant(self) -> Task | None:
        """Task that stays; None: the tasks follow a stream."""
        raise NotImplementedError

    def make_task(self, seed: int, index: int) -> Task:
        """Return task `index` of the stream with this seed: a pure function of the two."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        stream = {name: getattr(self, name) for name in ("task_seed", "change_every", "num_tasks")}
        given = [name for name, value in stream.items() if value is not None]
        if self.constant is not None:
            if given:
                raise ValueError(
                    f"{listed(self.constant.values())} is constant, and {' and '.join(given)} are of a"
                    " stream of tasks: give one or the other."
                )
            return
        if self.task_seed is None or self.change_every is None:
            raise ValueError(
                "A stream of tasks needs task_seed and change_every: "
                f"{self.task_seed!r}, {self.change_every!r}."
            )
        for name in given:
            minimum = 0 if name == "task_seed" else 1
            self._keep(name, require_integer(name, stream[name], minimum=minimum))

    def _keep(self, name: str, value: Any) -> None:
        # Converted to Python's own numbers, which every format of a state or a log can store.
        object.__setattr__(self, name, value)

    def task_at(self, steps: int) -> Task:
        """Return the task of an episode that begins after `steps` steps of the environment."""
        if self.constant is not None:
            return self.constant
        assert self.task_seed is not None  # by __post_init__
        assert self.change_every is not None
        index = steps // self.change_every
        if self.num_tasks is not None:
            index = min(index, self.num_tasks - 1)
        return self.make_task(self.task_seed, index)


def share_of_environment(change_every: int, num_envs: int) -> int:
    """Return the steps that each environment makes while all of them together make `change_every`.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if one is below 1, or the environments cannot share the steps evenly.
    """
    change_every = require_integer("change_every", change_every, minimum=1)
    share, rest = divmod(change_every, require_integer("num_envs", num_envs, minimum=1))
    if rest:
        near = [n * num_envs for n in (share, share + 1) if n]
        raise ValueError(
            f"change_every must be a multiple of num_envs, {num_envs}, as each environment counts its own "
            f"share: {change_every}. Nearest: {' and '.join(map(str, near))}."
        )
    return share


def uniform_numbers(seed: int, index: int, count: int = 1) -> list[float]:
    """Return the first uniform numbers of a task, from 0 to below 1, without visiting any other task.

    They are made of the raw output of PCG64, seeded by `SeedSequence(seed, spawn_key=(index,))`. numpy
    guarantees that neither ever changes.

    Args:
        seed: Seed of the stream, 0 or more.
        index: Index of the task, from 0.
        count: How many numbers to return; more of them begin with the same ones.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if one is negative.
    """
    seed = require_integer("seed", seed, minimum=0)
    index = require_integer("index", index, minimum=0)
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,)))
    return [(generator.random_raw() >> 11) / 2**53 for _ in range(count)]


def log_uniform(lowest: float, highest: float, uniform: float) -> float:
    """Return a number that is log-uniform from `lowest` to `highest` where `uniform` is uniform in [0, 1).

    It is rounded to six significant digits, so that it does not depend on the last bit of a machine's power
    function.
    """
    return float(f"{lowest * (highest / lowest) ** uniform:.6g}")


def listed(values: Mapping[str, float | str]) -> str:
    """Return what a task changes as people read it: `friction 0.31, mass 2`, or `game seaquest`."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, '.3g')}"
        for name, value in values.items()
    )
