"""What one more replica costs in memory, measured on the device itself."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def measured_bytes_per_replica(
    run: Callable[[int], object], device: str | torch.device
) -> tuple[int, int] | None:
    """Measure what training takes however many replicas it has, and what each of them adds.

    Weights, gradients, moments, anchors and activations all grow by the same amount with each replica,
    so that two numbers of replicas tell both parts. They are measured as the peak of what torch's
    allocator held: two and four replicas, because the first may go through other code.

    Args:
        run: Builds so many replicas, does whatever takes most memory (a step of the largest batch, an
            evaluation, metrics), and keeps nothing.
        device: Where.

    Returns:
        Bytes that all share, and bytes of each replica. None on a device that does not count its
        memory (the CPU): there, nothing is measured, and nothing is run.
    """
    if torch.device(device).type != "cuda":
        return None
    run(2)  # libraries take their workspaces once
    two, four = (_peak(run, replicas, device) for replicas in (2, 4))
    each = max(1, -(-(four - two) // 2))
    return max(0, two - 2 * each), each


def _peak(run: Callable[[int], object], replicas: int, device: str | torch.device) -> int:
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(replicas)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
