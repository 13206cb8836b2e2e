"""How many runs a device's memory holds at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from plasticity.scripts.run.atomic_files import RunError


class Held(Protocol):
    """What holds memory until it is closed."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class Memory:
    """Bytes on a device, as measured.

    Raises:
        ValueError: if a run needs nothing.
    """

    shared: int
    """What a group needs however many runs it has."""

    per_run: int
    """What each run adds."""

    free: int
    """What is free."""

    def __post_init__(self) -> None:
        if self.per_run < 1:
            raise ValueError(f"per_run must be above 0 bytes, not {self.per_run}.")

    def needed(self, runs: int) -> int:
        """Bytes for so many runs at once."""
        return self.shared + runs * self.per_run

    @property
    def most(self) -> int:
        """Runs that fit at once, with a tenth of the free memory left over; at least 1."""
        return max(1, (self.free * 9 // 10 - self.shared) // self.per_run)


def told(memory: Memory, sizes: Sequence[int]) -> str:
    """What the user is told of runs that do not fit all at once.

    Args:
        memory: As measured.
        sizes: Runs in each of the groups that they are trained in.
    """
    most = f"{sizes[0]}" if len(set(sizes)) == 1 else f"up to {max(sizes)}"
    return (
        f"{sum(sizes)} runs need about {_gigabytes(memory.needed(sum(sizes)))},"
        f" {_gigabytes(memory.free)} are free: trained in {len(sizes)} groups of {most}."
    )


def measured_memory(
    runs: int, begin: Callable[[int], Held], free: Callable[[], int] | None = None
) -> Memory:
    """Measure what runs need on the current CUDA device, by letting a few of them work a little.

    What is free is read from the device: other programs' memory counts, and so does what a simulator
    takes beside torch.

    Args:
        runs: How many there are to be, at least 2.
        begin: Builds so many runs and lets them do a little of everything that takes memory.
        free: Gives the free bytes. None: those of the current CUDA device.

    Raises:
        RunError: if not even two runs fit.
    """
    free = _free_bytes if free is None else free
    available = free()
    few, many = 1, 2
    while many * 8 <= runs:  # a quarter of them: of too few, rounding to blocks would be the most
        few, many = many, 2 * many
    while True:
        try:
            needed = [available - _held(begin, count, free) for count in (few, many)]
            break
        except torch.cuda.OutOfMemoryError as error:
            if many == 2:
                raise RunError(
                    f"Two runs at once do not fit into the {_gigabytes(available)} that are free: give"
                    " --together 1."
                ) from error
            few, many = few // 2, few
    per_run = max(1, -(-(needed[1] - needed[0]) // (many - few)))
    return Memory(shared=max(0, needed[1] - many * per_run), per_run=per_run, free=available)


def _held(begin: Callable[[int], Held], count: int, free: Callable[[], int]) -> int:
    """What is free while so many runs are there."""
    held: Held | None = None
    release_memory()  # an attempt that did not fit was held by its error until now
    try:
        held = begin(count)
        return free()
    finally:
        if held is not None:
            held.close()
        del held
        release_memory()


def release_memory() -> None:
    """Give back to the device what is no longer held; nothing where CUDA is not in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # captured steps refer to themselves
        torch.cuda.empty_cache()


def _free_bytes() -> int:
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
