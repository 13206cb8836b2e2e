"""Several contenders in turns, and the rows of their rates: what the ant's and PPO's measurements share."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from plasticity.scripts.bench.hardware import available_cores
from plasticity.scripts.bench.rows import Row, speed_row
from plasticity.scripts.bench.timing import Comparison

CORES = 2
"""What the goals of whatever runs in parallel are for."""

_REMEDIES = {
    "pybullet": "pip install 'plasticity[bullet]', on Python 3.10 or 3.11",
    "pybullet_envs_gymnasium": "pip install pybullet_envs_gymnasium",
    "mujoco_warp": "pip install 'plasticity[gpu]', on Python 3.11 or newer",
}

Times = dict[str, tuple[float, ...]]


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Let all take a turn in every round, and once untimed before.

    Garbage is collected as it comes: turns are long against it, and a loop that makes more pays more.

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
    """Whose median is the smallest."""
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
    """Our speed over theirs, with both rates in the note.

    Args:
        measurement: As of the row.
        case: As of the row.
        ours: Seconds of a turn, round by round.
        theirs: Likewise.
        steps: Environment steps of a turn; the row has seconds per step.
        goal: As of the row.
        note: Goes before the rates.
    """
    comparison = Comparison(*(tuple(each / steps for each in side) for side in (ours, theirs)))
    rates = " / ".join(
        f"{1 / statistics.median(side):.0f}" for side in (comparison.ours, comparison.theirs)
    )
    note = f"{note}; {rates} steps/s" if note else f"{rates} steps/s"
    return speed_row(measurement, case, comparison, goal, note=note)


def goal_on_cores(goal: float) -> tuple[float | None, str]:
    """A goal that is made for two cores, or why it does not count here."""
    cores = available_cores()
    if cores == CORES:
        return goal, ""
    return None, f"no goal: it is for {CORES} cores (taskset -c 0,1), and here are {cores}"


def missing(package: str) -> str:
    """Return how to get a package that is not installed; "" if it is."""
    return "" if importlib.util.find_spec(package) else _REMEDIES[package]


def unmeasured_row(measurement: str, case: str, goal: float | None, remedy: str) -> Row:
    """A row that says what it would need."""
    note = f"not measured, it needs {remedy}"
    return Row(measurement, case, None, "speed", goal=goal, bound="at least", note=note)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch so many threads in this process, and set their number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
