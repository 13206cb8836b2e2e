"""Interleaved timing of two functions: a disturbance of the machine affects both alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from plasticity.checks import require_integer


@dataclass(frozen=True)
class Comparison:
    """Seconds of two functions, pair by pair: entry i of one was timed right next to the other's.

    Raises:
        ValueError: if there are no pairs, or the two sides differ in length.
    """

    ours: tuple[float, ...]
    """Seconds per call of the first function, one number per round."""

    theirs: tuple[float, ...]
    """Seconds per call of the second function, likewise."""

    def __post_init__(self) -> None:
        if not self.ours or len(self.ours) != len(self.theirs):
            raise ValueError(
                f"A comparison needs pairs of times, at least one, but got {len(self.ours)} and"
                f" {len(self.theirs)} times: time both sides equally often."
            )

    @property
    def time_ratio(self) -> Quartiles:
        """Ratio of our time to theirs, in quartiles: below 1, ours is faster."""
        return quartiles([a / b for a, b in zip(self.ours, self.theirs, strict=True)])

    @property
    def speed_ratio(self) -> Quartiles:
        """Ratio of our speed to theirs, in quartiles: above 1, ours is faster."""
        return quartiles([b / a for a, b in zip(self.ours, self.theirs, strict=True)])


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


def interleaved(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int,
    warmup: int = 1,
    calls: int = 1,
    synchronize: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two functions in turns: ours, theirs, ours, theirs, and so on.

    Args:
        ours: First function.
        theirs: Second function.
        rounds: Number of timed pairs, at least 1.
        warmup: Number of untimed pairs that precede them.
        calls: Calls per turn, at least 1: more for functions too short for the clock.
        synchronize: Function that waits for the device, called before the clock is read.
        clock: Function that returns the time in seconds.

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

    with _no_garbage_collection():
        for _ in range(warmup):
            turn(ours)
            turn(theirs)
        pairs = [(turn(ours), turn(theirs)) for _ in range(rounds)]
    return Comparison(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def synchronizer(device: torch.device | str) -> Callable[[], object]:
    """Return a function that waits for a device's queued work; on a CPU it does nothing."""
    kind = torch.device(device).type
    return (lambda: None) if kind == "cpu" else torch.get_device_module(kind).synchronize


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A collection during a turn would be charged to it, whichever side made the garbage.
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
