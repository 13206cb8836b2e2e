"""Memory of syre: its peak over torch's own, and the size of its checkpoint."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from plasticity.agents.supervised.single import OPTIMIZERS
from plasticity.scripts.bench.rows import Effort, Row
from plasticity.scripts.bench.steps import optimizer_pair

_CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("SGD", "sgd", {}),
    ("SGD, momentum 0.9", "sgd", {"momentum": 0.9}),
    ("Adam", "adam", {}),
)

CHECKPOINT_GOAL_BYTES = 1024
"""Bytes that the settings of a group may add to a checkpoint; an anchor would add 4 per parameter."""


def memory(effort: Effort) -> list[Row]:
    """Measure the peak memory of syre's steps over torch's own, and the size of the checkpoints."""
    copies: list[Row] = []
    checkpoints: list[Row] = []
    for label, name, extra in _CASES:
        ours, theirs = optimizer_pair(effort, OPTIMIZERS[name], extra)
        # The first step draws the anchors, and creates the optimizer's own state on both sides.
        our_first, their_first = (memory_use(each.step, effort.device) for each in (ours, theirs))
        our_next, their_next = (memory_use(each.step, effort.device) for each in (ours, theirs))
        held = our_first.held - their_first.held
        in_first = our_first.peak - their_first.peak
        in_next = held + our_next.peak - their_next.peak
        copies.append(_copies_row(f"{label}: first step's peak over torch's", ours, in_first))
        copies.append(_copies_row(f"{label}: later peaks over torch's", ours, in_next))
        checkpoints.append(_checkpoint_row(f"{label}: checkpoint over torch's", ours, theirs))
    return copies + checkpoints


def _copies_row(case: str, optimizer: torch.optim.Optimizer, extra_bytes: int) -> Row:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    regularized_bytes = sum(p.numel() * p.element_size() for p in parameters)
    return Row("memory", case, extra_bytes / regularized_bytes, "copies", goal=1.0)


def _checkpoint_row(case: str, ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> Row:
    our_bytes, their_bytes = (saved_bytes(each.state_dict()) for each in (ours, theirs))
    return Row(
        "memory",
        case,
        float(our_bytes - their_bytes),
        "bytes",
        goal=float(CHECKPOINT_GOAL_BYTES * len(ours.param_groups)),
        ours=float(our_bytes),
        theirs=float(their_bytes),
    )


def saved_bytes(state: Mapping[str, Any]) -> int:
    """Return the size in bytes of the file that `torch.save` writes for a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


@dataclass(frozen=True)
class MemoryUse:
    """Memory of tensors during and after a call, in bytes beyond what was allocated before it."""

    peak: int
    """Most bytes allocated at once during the call."""

    held: int
    """Bytes still allocated after the call; negative if it freed earlier tensors."""


def memory_use(function: Callable[[], object], device: str) -> MemoryUse:
    """Track the allocations of tensors during a call.

    Args:
        function: Function to call, once.
        device: Device whose memory to track: cpu or cuda.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        return MemoryUse(peak - before, held - before)
    with (
        _quiet_profiler(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        function()
    sums = [0, *accumulate(_allocations(profiler))]
    return MemoryUse(max(sums), sums[-1])


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    # The profiler's library otherwise logs its start and stop to standard error; it reads this variable.
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _allocations(profiler: Any) -> list[int]:
    """Return the bytes of every allocation, in chronological order; negative for memory that is freed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    found = [event for event in events if event.get("name") == "[memory]"]
    found.sort(key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in found]
