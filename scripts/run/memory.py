"""Measurement of how many stacked runs fit into a device's memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from plasticity.scripts.run.atomic_files import RunError


class Held(Protocol):
    """Object that holds memory until it is closed."""

    def close(self) -> None:
        """Release the memory."""


@dataclass(frozen=True)
class Memory:
    """Memory on a device, as measured, in bytes.

    Raises:
        ValueError: if a run needs no memory.
    """

    shared: int
    """Bytes that a group needs regardless of its number of runs."""

    per_run: int
    """Bytes that each run adds."""

    free: int
    """Bytes that are free."""

    def __post_init__(self) -> None:
        if self.per_run < 1:
            raise ValueError(f"per_run must be above 0 bytes, not {self.per_run}.")

    def needed(self, runs: int) -> int:
        """Return the bytes that this many stacked runs need."""
        return self.shared + runs * self.per_run

    @property
    def most(self) -> int:
        """Number of stacked runs that fit, with a tenth of the free memory to spare; at least 1."""
        return max(1, (self.free * 9 // 10 - self.shared) // self.per_run)


def describe_groups(memory: Memory, sizes: Sequence[int]) -> str:
    """Return the message about runs that do not all fit into memory.

    Args:
        memory: Memory, as measured.
        sizes: Number of runs in each of the groups that are trained in turn.
    """
    most = f"{sizes[0]}" if len(set(sizes)) == 1 else f"up to {max(sizes)}"
    return (
        f"{sum(sizes)} runs need about {_gigabytes(memory.needed(sum(sizes)))},"
        f" {_gigabytes(memory.free)} are free: trained in {len(sizes)} groups of {most}."
    )


def measured_memory(
    runs: int, begin: Callable[[int], Held], free: Callable[[], int] | None = None
) -> Memory:
    """Measure the memory that runs need on the current CUDA device, by rehearsing a few of them.

    Free memory is read from the device, so that the memory of other programs counts, and so does what a
    simulator allocates outside torch.

    Args:
        runs: Number of runs to train, at least 2.
        begin: Builds the given number of runs and lets them do a little of everything that takes memory.
        free: Returns the free bytes. None: those of the current CUDA device.

    Raises:
        RunError: if not even two runs fit.
    """
    free = _free_bytes if free is None else free
    available = free()
    few, many = 1, 2
    while many * 8 <= runs:  # a quarter of them: with too few, rounding to blocks would dominate
        few, many = many, 2 * many
    while True:
        try:
            needed = [available - _held(begin, count, free) for count in (few, many)]
            break
        except torch.cuda.OutOfMemoryError as error:
            if many == 2:
                raise RunError(
                    f"Two stacked runs do not fit into the {_gigabytes(available)} that are free: give"
                    " --stack 1."
                ) from error
            few, many = few // 2, few
    per_run = max(1, -(-(needed[1] - needed[0]) // (many - few)))
    return Memory(shared=max(0, needed[1] - many * per_run), per_run=per_run, free=available)


def _held(begin: Callable[[int], Held], count: int, free: Callable[[], int]) -> int:
    """Return the bytes that are free while this many runs exist."""
    held: Held | None = None
    release_memory()  # until now, the error of an attempt that did not fit kept it alive
    try:
        held = begin(count)
        return free()
    finally:
        if held is not None:
            held.close()
        del held
        release_memory()


def release_memory() -> None:
    """Return unused memory to the device; does nothing where CUDA is not in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # captured steps refer to themselves
        torch.cuda.empty_cache()


def _free_bytes() -> int:
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
