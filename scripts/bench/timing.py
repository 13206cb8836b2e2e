"""Time two ways of doing one thing, interleaved: what disturbs the machine disturbs both alike."""

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
    """Seconds of the two ways, pair by pair: entry i of one was taken right beside the other's.

    Raises:
        ValueError: if there is no pair, or a number has no partner.
    """

    ours: tuple[float, ...]
    """Seconds per call of the first way, one number for each round."""

    theirs: tuple[float, ...]
    """Seconds per call of the second way."""

    def __post_init__(self) -> None:
        if not self.ours or len(self.ours) != len(self.theirs):
            raise ValueError(
                f"A comparison needs pairs of times: got {len(self.ours)} and {len(self.theirs)}."
            )

    @property
    def time_ratio(self) -> Quartiles:
        """Our time over theirs: below 1, ours is faster."""
        return quartiles([a / b for a, b in zip(self.ours, self.theirs, strict=True)])

    @property
    def speed_ratio(self) -> Quartiles:
        """Our speed over theirs: above 1, ours is faster."""
        return quartiles([b / a for a, b in zip(self.ours, self.theirs, strict=True)])


@dataclass(frozen=True)
class Quartiles:
    """The middle of some numbers, and how far they spread."""

    lower: float
    """A quarter of the numbers are below."""

    median: float
    """Half of them are below."""

    upper: float
    """Three quarters are below."""


def quartiles(numbers: Sequence[float]) -> Quartiles:
    """Quartiles, interpolated linearly between the sorted numbers (numpy's default).

    Raises:
        ValueError: if there are none.
    """
    if not numbers:
        raise ValueError("Quartiles of no numbers: give at least one.")
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
        ours: The first.
        theirs: The second.
        rounds: How many pairs are timed, at least 1.
        warmup: How many pairs go before them, untimed.
        calls: Calls in one turn, at least 1: more for what is short against the clock.
        synchronize: Waits for the device, before the clock is read.
        clock: Seconds.

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
    """What waits for a device's queued work; nothing to wait for on a CPU."""
    kind = torch.device(device).type
    return (lambda: None) if kind == "cpu" else torch.get_device_module(kind).synchronize


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A collection in one turn would be charged to it, whoever made the garbage.
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
