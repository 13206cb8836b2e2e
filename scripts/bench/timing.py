"""Timing of functions that take turns: a disturbance of the machine affects all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from plasticity.checks import require_integer

Times = dict[str, tuple[float, ...]]
"""Seconds per call of each contender, one number per round: equal positions were timed next to each other."""


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    calls: int = 1,
    synchronize: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    collect_garbage: bool = False,
) -> Times:
    """Let every contender take one turn in each round.

    Args:
        contenders: Functions to time, by label.
        rounds: Number of timed rounds, at least 1.
        warmup: Number of untimed rounds that precede them.
        calls: Calls per turn, at least 1: more for functions too short for the clock.
        synchronize: Function that waits for the device, called before the clock is read.
        clock: Function that returns the time in seconds.
        collect_garbage: Whether garbage is collected as usual, for turns that are long in comparison: a loop
            that makes more of it then pays more. Otherwise, no turn is charged for it.

    Returns:
        The seconds per call of each contender, round by round.

    Raises:
        ValueError: if a count is out of range.
    """
    require_integer("rounds", rounds, minimum=1)
    require_integer("warmup", warmup, minimum=0)
    require_integer("calls", calls, minimum=1)

    def turn(function: Callable[[], object]) -> float:
        synchronize()
        started = clock()
        for _ in range(calls):
            function()
        synchronize()
        return (clock() - started) / calls

    times: dict[str, list[float]] = {label: [] for label in contenders}
    with nullcontext() if collect_garbage else _no_garbage_collection():
        for index in range(warmup + rounds):
            for label, function in contenders.items():
                seconds = turn(function)
                if index >= warmup:
                    times[label].append(seconds)
    return {label: tuple(seconds) for label, seconds in times.items()}


def fastest(times: Mapping[str, Sequence[float]]) -> str:
    """Return the label of the contender with the smallest median."""
    return min(times, key=lambda label: statistics.median(times[label]))


@dataclass(frozen=True)
class Quartiles:
    """Quartiles of some numbers: their middle and their spread."""

    lower: float
    """Number below which a quarter of them lie."""

    median: float
    """Number below which half of them lie."""

    upper: float
    """Number below which three quarters of them lie."""


def quartiles(numbers: Sequence[float]) -> Quartiles:
    """Compute quartiles, interpolated linearly between the sorted numbers (NumPy's default).

    Raises:
        ValueError: if there are no numbers.
    """
    if not numbers:
        raise ValueError("Cannot compute quartiles of no numbers: pass at least one.")
    if len(numbers) == 1:
        return Quartiles(numbers[0], numbers[0], numbers[0])
    return Quartiles(*statistics.quantiles(numbers, n=4, method="inclusive"))


def synchronizer(device: torch.device | str) -> Callable[[], object]:
    """Return a function that waits for a device's queued work; on a CPU it does nothing."""
    kind = torch.device(device).type
    return (lambda: None) if kind == "cpu" else torch.get_device_module(kind).synchronize


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads in this process, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
