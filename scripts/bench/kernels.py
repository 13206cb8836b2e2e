"""Speed of the decay and Adam kernels against the device's memory bandwidth and torch's fused Adam.

Everything takes about a minute on a data-centre GPU, including compilation:

    plasticity bench --only kernels --device cuda
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.optim.kernels.tensor_table import Anchors, DrawnAnchor, TableCache
from plasticity.optim.regularizers import regularized
from plasticity.scripts.bench.rows import Effort, Row, speed_row, time_row
from plasticity.scripts.bench.steps import SIGMA, STRENGTH

COMMAND = "plasticity bench --only kernels --device cuda"
"""Command that measures the kernels."""

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
    if torch.device(effort.device).type != "cuda":
        return _unmeasured()
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


def _unmeasured() -> list[Row]:
    note = f"not measured: needs a CUDA device; {COMMAND}"
    decay = [
        Row("kernels", f"{label}, vs a copy", None, "speed", goal, "at least", note=note)
        for label, *_, goal in DECAY_CASES
    ]
    adam = [
        Row("kernels", f"{label}, vs fused Adam", None, "time", goal, note=note)
        for label, *_, goal in ADAM_CASES
    ]
    return decay + adam


# ---- the decay against a copy of as many bytes -------------------------------------------------------


def decay_row(
    effort: Effort, label: str, coupled: bool, drawn: bool, bytes_each: int, goal: float | None
) -> Row:
    """Measure the kernel's speed over that of a copy that moves as many bytes."""
    parameters, gradients = (_normal(large_shapes(effort), seed, effort) for seed in (0, 1))
    anchors: Anchors = _normal(large_shapes(effort), 2, effort)
    if drawn:
        anchors = [DrawnAnchor(0, index, 0.01) for index in range(len(parameters))]
    elements = sum(parameter.numel() for parameter in parameters)
    comparison = effort.compare(
        decay_call(parameters, gradients, anchors, coupled=coupled),
        copy_call(elements * bytes_each, effort.device),
        rounds=_ROUNDS,
        calls=10,
    )
    row = speed_row("kernels", f"{label}, vs a copy of as many bytes", comparison, goal)
    return _with_bandwidth(row, elements * bytes_each, elements * bytes_each)


def decay_call(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    anchors: Anchors,
    *,
    coupled: bool,
) -> Callable[[], object]:
    """Return a function that calls the decay kernel, always on the same tensors."""
    from plasticity.optim.kernels.decay import decay_toward_, decayed_gradients  # noqa: PLC0415  (triton)

    cache = TableCache()
    if coupled:
        return lambda: decayed_gradients(gradients, parameters, anchors, STRENGTH, cache)
    return lambda: decay_toward_(parameters, anchors, STRENGTH, cache)


def copy_call(moved: int, device: str) -> Callable[[], object]:
    """Return a function that copies memory: half of `moved` bytes are read, the other half written."""
    source = torch.zeros(moved // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# ---- Adam ------------------------------------------------------------------------------------------


def large_adam_row(
    effort: Effort, label: str, settings: dict[str, Any], bytes_each: int, goal: float | None
) -> Row:
    """Measure our step's time over torch's where memory is the limit."""
    ours, theirs = adam_pair(effort, large_shapes(effort), settings)
    comparison = effort.compare(ours.step, theirs.step, rounds=_ROUNDS, calls=10)
    row = time_row("kernels", f"{label}, vs fused Adam", comparison, goal)
    elements = sum(math.prod(shape) for shape in large_shapes(effort))
    return _with_bandwidth(row, elements * bytes_each, elements * 28)


def small_adam_row(effort: Effort, label: str, settings: dict[str, Any]) -> Row:
    """Measure our step's time over torch's where the host, which launches the kernels, is the limit."""
    ours, theirs = adam_pair(effort, small_shapes(), settings)
    comparison = effort.compare(ours.step, theirs.step, rounds=_ROUNDS, calls=100)
    row = time_row("kernels", f"{label}, vs fused Adam, small network", comparison, None)
    assert row.ours is not None
    assert row.theirs is not None
    return replace(row, note=f"{row.ours * 1e6:.0f} / {row.theirs * 1e6:.0f} µs")


def adam_pair(
    effort: Effort, shapes: Sequence[tuple[int, ...]], settings: dict[str, Any]
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return our Adam with syre and torch's fused Adam with its own decay, over equal parameters."""
    ours = regularized(torch.optim.Adam)(
        _with_gradients(shapes, effort),
        lr=1e-4,
        regularizer="syre",
        strength=STRENGTH,
        anchor_seed=0,
        **{"sigma": SIGMA, **settings},
    )
    theirs = torch.optim.Adam(
        _with_gradients(shapes, effort), lr=1e-4, weight_decay=STRENGTH, fused=True
    )
    return ours, theirs


def _with_gradients(shapes: Sequence[tuple[int, ...]], effort: Effort) -> list[nn.Parameter]:
    parameters = [nn.Parameter(tensor) for tensor in _normal(shapes, 0, effort)]
    for parameter, gradient in zip(parameters, _normal(shapes, 1, effort), strict=True):
        parameter.grad = gradient
    return parameters


def _normal(shapes: Sequence[tuple[int, ...]], seed: int, effort: Effort) -> list[Tensor]:
    generator = torch.Generator(effort.device).manual_seed(seed)
    return [torch.randn(s, generator=generator, device=effort.device) for s in shapes]


def _with_bandwidth(row: Row, our_bytes: int, their_bytes: int) -> Row:
    assert row.ours is not None
    assert row.theirs is not None
    rates = our_bytes / row.ours / 1e9, their_bytes / row.theirs / 1e9
    return replace(row, note=f"{rates[0]:.0f} / {rates[1]:.0f} GB/s")
