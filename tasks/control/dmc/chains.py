"""Chains of tasks of the DeepMind Control Suite: the domains, the tasks in turn, and their schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.checks import require_known, require_name, require_number
from plasticity.tasks.control.schedule import TaskSchedule
from plasticity.tasks.streams.base import Stream


@dataclass(frozen=True)
class Domain:
    """One body of the suite. All its tasks here have the same observations, actions and physics."""

    speeds: Mapping[str, float]
    """Speed that each task rewards, in m/s, by the task's name in the suite; 0 is to stand."""

    chain: tuple[str, ...]
    """Published order of its tasks (Tang et al., C-CHAIN, 2025)."""

    step_seconds: float
    """Simulated time of a step. An episode has 1000."""


DOMAINS: Mapping[str, Domain] = {
    "walker": Domain({"stand": 0.0, "walk": 1.0, "run": 8.0}, ("stand", "walk", "run"), 0.025),
    "quadruped": Domain({"walk": 0.5, "run": 5.0}, ("walk", "run", "walk"), 0.02),
    "dog": Domain(
        {"stand": 0.0, "walk": 1.0, "trot": 3.0, "run": 9.0},
        ("stand", "walk", "run", "trot"),
        0.015,
    ),
}
"""Domains by their name in the suite."""


@dataclass(frozen=True)
class ChainTask:
    """Task of a chain, known by the speed that it rewards."""

    index: int
    """Index in the stream, from 0."""

    name: str
    """Name in the suite."""

    target_speed: float
    """Speed that is rewarded, in m/s; 0 is to stand."""

    def values(self) -> dict[str, float]:
        """Return the speed by its name."""
        return {"target_speed": self.target_speed}


def checked_chain(domain: str, chain: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a chain of tasks of a domain; the published one if none is given.

    Raises:
        TypeError: if a name is not one, or the chain is no list of names.
        ValueError: if the domain or a task is unknown; the message names the nearest.
    """
    require_name("domain", domain)
    require_known("domain", domain, tuple(DOMAINS))
    if isinstance(chain, str) or not isinstance(chain, Sequence):
        raise TypeError(f"chain must be names of tasks, such as ('stand', 'walk'): {chain!r}.")
    for name in chain:
        require_name("a task of the chain", name)
        require_known("task of the chain", name, tuple(DOMAINS[domain].speeds))
    return tuple(chain) or DOMAINS[domain].chain


def chain_task(domain: str, chain: Sequence[str], index: int) -> ChainTask:
    """Return one task of a chain, which begins anew after its last task."""
    name = chain[index % len(chain)]
    return ChainTask(index, name, DOMAINS[domain].speeds[name])


def constant_task(domain: str, target_speed: float) -> ChainTask:
    """Return the task of a domain that rewards a speed.

    Raises:
        TypeError: if the speed is not a number.
        ValueError: if no task of the domain rewards it.
    """
    speed = require_number("target_speed", target_speed, minimum=0.0)
    for name, known in DOMAINS[domain].speeds.items():
        if speed == known:
            return ChainTask(0, name, known)
    known_speeds = ", ".join(f"{each:g} ({name})" for name, each in DOMAINS[domain].speeds.items())
    raise ValueError(f"No task of {domain} has target_speed {speed:g}: give one of {known_speeds}.")


class ChainStream(Stream[ChainTask]):
    """Stream of the tasks of a chain, in turn and again from its start; the seed changes nothing.

    Args:
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the run's stream, 0 or more.
        domain: One of `DOMAINS`.
        chain: Names of tasks. Empty: the published chain.
    """

    def __init__(self, num_tasks: int, seed: int, domain: str, chain: Sequence[str] = ()) -> None:
        super().__init__(num_tasks, seed)
        self._domain, self._chain = domain, checked_chain(domain, chain)

    def make_task(self, index: int) -> ChainTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return chain_task(self._domain, self._chain, index)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the speed that a task rewards, which a row of metrics tells besides its index."""
        return self[index].values()


@dataclass(frozen=True, kw_only=True)
class ChainSchedule(TaskSchedule[ChainTask]):
    """Schedule of tasks of a domain: one that stays, or those of a chain, in turn."""

    domain: str
    """One of `DOMAINS`."""

    chain: tuple[str, ...]
    """Names of tasks, at least one."""

    task: ChainTask | None = None
    """Task that stays; None: the tasks follow the chain."""

    @property
    def constant(self) -> ChainTask | None:
        """Task that stays."""
        return self.task

    def make_task(self, seed: int, index: int) -> ChainTask:
        """Return task `index` of the chain."""
        return chain_task(self.domain, self.chain, index)
