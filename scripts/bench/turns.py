"""Timing of several contenders in turns, and rows of their rates, for the measurements of ant and PPO."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from plasticity.scripts.bench.rows import Row, speed_row
from plasticity.scripts.bench.timing import Comparison
from plasticity.tasks.vector.environments import available_cores

CORES = 2
"""Number of cores that the goals of parallel measurements apply to."""

_REMEDIES = {
    "pybullet": "pip install 'plasticity[bullet]', on Python 3.10 or 3.11",
    "pybullet_envs_gymnasium": "pip install pybullet_envs_gymnasium",
    "mujoco_warp": "pip install 'plasticity[gpu]', on Python 3.11 or newer",
}

Times = dict[str, tuple[float, ...]]


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Let every contender take one turn in each round, after an untimed one.

    Garbage is collected as usual: turns are long in comparison, and a loop that makes more of it pays more.

    Returns:
        The seconds of each contender, round by round.
    """
    times: dict[str, list[float]] = {label: [] for label in contenders}
    for turn in contenders.values():
        turn()
    for _ in range(rounds):
        for label, turn in contenders.items():
            started = time.perf_counter()
            turn()
            times[label].append(time.perf_counter() - started)
    return {label: tuple(seconds) for label, seconds in times.items()}


def fastest(times: Mapping[str, Sequence[float]]) -> str:
    """Return the label of the contender with the smallest median."""
    return min(times, key=lambda label: statistics.median(times[label]))


def rate_row(
    measurement: str,
    case: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    steps: int,
    goal: float | None = None,
    *,
    note: str = "",
) -> Row:
    """Return the row of our speed over theirs, with both rates in the note.

    Args:
        measurement: Measurement of the row.
        case: Case of the row.
        ours: Seconds of each of our turns, round by round.
        theirs: Seconds of each of their turns, likewise.
        steps: Environment steps per turn; the row has seconds per step.
        goal: Goal of the row.
        note: Text that precedes the rates.
    """
    comparison = Comparison(*(tuple(each / steps for each in side) for side in (ours, theirs)))
    rates = " / ".join(
        f"{1 / statistics.median(side):.0f}" for side in (comparison.ours, comparison.theirs)
    )
    note = f"{note}; {rates} steps/s" if note else f"{rates} steps/s"
    return speed_row(measurement, case, comparison, goal, note=note)


def goal_on_cores(goal: float) -> tuple[float | None, str]:
    """Return the goal and "" if this process has the two cores it applies to, else None and the reason."""
    cores = available_cores()
    if cores == CORES:
        return goal, ""
    return None, f"no goal: it applies to {CORES} cores (taskset -c 0,1), not to {cores}"


def missing(package: str) -> str:
    """Return how to get a package that is not installed; "" if it is installed."""
    return "" if importlib.util.find_spec(package) else _REMEDIES[package]


def unmeasured_row(measurement: str, case: str, goal: float | None, remedy: str) -> Row:
    """Return a row without a value, whose note says what the measurement needs."""
    note = f"not measured: needs {remedy}"
    return Row(measurement, case, None, "speed", goal=goal, bound="at least", note=note)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads in this process, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
