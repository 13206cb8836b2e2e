"""Speed of the decay and Adam kernels against the device's memory bandwidth and torch's fused Adam.

Everything takes about a minute on a data-centre GPU, including compilation:

    plasticity bench --only kernels --device cuda
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.kernels.tensor_table import Anchors, DrawnAnchor, TableCache
from plasticity.scripts.bench.comparison import Comparison, Effort, Side
from plasticity.scripts.bench.learners import SYRE
from plasticity.scripts.bench.rows import Row
from plasticity.scripts.bench.steps import normal, optimizer_pair

COPY_GOAL = 0.85
"""Goal for the decay with a stored anchor, as a share of the copy bandwidth."""

DRAWN_GOAL = 1.02
"""Goal for Adam with syre, drawn anchors, over torch's fused Adam: both move 28 bytes per parameter."""

STORED_GOAL = 1.16
"""Goal for Adam with syre, stored anchors, over the same: 32 bytes over 28 are 1.143, plus a margin."""

_ROUNDS = 40

ADAM_CASES: tuple[tuple[str, dict[str, Any], int, float | None], ...] = (
    ("syre drawn in our kernel", {"kernel": "triton-drawn"}, 28, DRAWN_GOAL),
    ("syre stored, in our kernel", {"kernel": "triton"}, 32, STORED_GOAL),
    ("weight decay in our kernel", {"kernel": "triton", "sigma": 0.0}, 28, None),
    ("eager syre around fused Adam", {"fused": True}, 52, None),
)
"""Label, settings, bytes per parameter and goal of each case of Adam."""

DECAY_CASES: tuple[tuple[str, bool, bool, int, float | None], ...] = (
    ("decoupled decay, stored anchor", False, False, 12, COPY_GOAL),
    ("coupled decay, stored anchor", True, False, 16, COPY_GOAL),
    ("decoupled decay, drawn anchor", False, True, 8, None),
    ("coupled decay, drawn anchor", True, True, 12, None),
)
"""Label, coupled, drawn, bytes per parameter and goal of each case of the decay."""


def kernels(effort: Effort) -> list[Row]:
    """Measure the kernels on 134 M float32 parameters, and Adam's on a small network as well."""
    return [
        *[decay_row(effort, *case) for case in DECAY_CASES],
        *[large_adam_row(effort, *case) for case in ADAM_CASES],
        *[small_adam_row(effort, *case[:2]) for case in ADAM_CASES],
    ]


def large_shapes(effort: Effort) -> list[tuple[int, ...]]:
    """Return the shapes of eight square weights: 0.5 GB in float32, far more than the largest cache."""
    side = effort.size(4096, 32)
    return [(side, side)] * 8


def small_shapes() -> list[tuple[int, ...]]:
    """Return the shapes of actor and critic, two hidden layers of 256 on 27 inputs, as for Slippery-Ant."""
    return [
        shape
        for outputs in (8, 1)
        for shape in ((256, 27), (256,), (256, 256), (256,), (outputs, 256), (outputs,))
    ]


def _bandwidths(effort: Effort, ours: int, theirs: int) -> Callable[[float, float], str]:
    """Return the note of a row about the large weights, from the bytes per parameter of both sides."""
    gigabytes = sum(math.prod(shape) for shape in large_shapes(effort)) / 1e9
    return lambda our_seconds, their_seconds: (
        f"{ours * gigabytes / our_seconds:.0f} / {theirs * gigabytes / their_seconds:.0f} GB/s"
    )


# ---- the decay against a copy of as many bytes -------------------------------------------------------


def decay_row(
    effort: Effort, label: str, coupled: bool, drawn: bool, bytes_each: int, goal: float | None
) -> Row:
    """Measure the kernel's speed over that of a copy that moves as many bytes."""
    comparison = Comparison(
        case=f"{label}, vs a copy of as many bytes",
        unit="speed",
        sides=partial(_decay_sides, effort, coupled, drawn, bytes_each),
        goal=goal,
        rounds=_ROUNDS,
        calls=10,
        needs=("cuda",),
    )
    return comparison.measured(effort).noted(_bandwidths(effort, bytes_each, bytes_each))


def _decay_sides(effort: Effort, coupled: bool, drawn: bool, bytes_each: int) -> tuple[Side, Side]:
    shapes = large_shapes(effort)
    parameters, gradients = (normal(shapes, seed, effort.device) for seed in (0, 1))
    anchors: Anchors = (
        [DrawnAnchor(0, index, 0.01) for index in range(len(shapes))]
        if drawn
        else normal(shapes, 2, effort.device)
    )
    moved = sum(parameter.numel() for parameter in parameters) * bytes_each
    ours = decay_call(parameters, gradients, anchors, coupled=coupled)
    return ours, copy_call(moved, effort.device)


def decay_call(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    anchors: Anchors,
    *,
    coupled: bool,
) -> Side:
    """Return a function that calls the decay kernel, always on the same tensors."""
    from plasticity.optim.kernels.decay import decay_toward_, decayed_gradients  # noqa: PLC0415  (triton)

    cache = TableCache()
    if coupled:
        return lambda: decayed_gradients(
            gradients, parameters, anchors, SYRE.regularizer.strength, cache
        )
    return lambda: decay_toward_(parameters, anchors, SYRE.regularizer.strength, cache)


def copy_call(moved: int, device: str) -> Side:
    """Return a function that copies memory: half of `moved` bytes are read, the other half written."""
    source = torch.zeros(moved // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# ---- Adam ------------------------------------------------------------------------------------------


def large_adam_row(
    effort: Effort, label: str, settings: dict[str, Any], bytes_each: int, goal: float | None
) -> Row:
    """Measure our step's time over torch's where memory is the limit."""
    row = _adam_row(effort, label, large_shapes(effort), settings, calls=10, goal=goal)
    return row.noted(_bandwidths(effort, bytes_each, 28))


def small_adam_row(effort: Effort, label: str, settings: dict[str, Any]) -> Row:
    """Measure our step's time over torch's where the host, which launches the kernels, is the limit."""
    row = _adam_row(effort, label, small_shapes(), settings, calls=100, where=", small network")
    return row.noted(lambda ours, theirs: f"{ours * 1e6:.0f} / {theirs * 1e6:.0f} µs")


def _adam_row(
    effort: Effort,
    label: str,
    shapes: Sequence[tuple[int, ...]],
    settings: dict[str, Any],
    *,
    calls: int,
    goal: float | None = None,
    where: str = "",
) -> Row:
    return Comparison(
        case=f"{label}, vs fused Adam{where}",
        unit="time",
        sides=partial(_adam_sides, effort, shapes, settings),
        goal=goal,
        rounds=_ROUNDS,
        calls=calls,
        needs=("cuda",),
    ).measured(effort)


def _adam_sides(
    effort: Effort, shapes: Sequence[tuple[int, ...]], settings: dict[str, Any]
) -> tuple[Side, Side]:
    ours, theirs = optimizer_pair(
        torch.optim.Adam,
        shapes,
        effort.device,
        ours={"lr": 1e-4, **settings},
        theirs={"lr": 1e-4, "fused": True},
    )
    return ours.step, theirs.step
