"""Measurement of the kernels: its rows without a GPU, and a run of each of its parts."""

import os

import pytest
import torch

from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.kernels import (
    ADAM_CASES,
    DECAY_CASES,
    copy_call,
    decay_row,
    kernels,
    large_adam_row,
    large_shapes,
    small_adam_row,
    small_shapes,
)

CUDA = torch.cuda.is_available()
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
QUICK = Effort("cuda" if CUDA and not INTERPRETED else "cpu", quick=True, rounds=1)
with_kernels = pytest.mark.skipif(
    not (CUDA or INTERPRETED),
    reason="needs a CUDA device (test_kernels.py runs this in Triton's interpreter)",
)


@pytest.fixture(autouse=True)
def everything_is_measured(monkeypatch):
    """Measure on a CPU too, in Triton's interpreter."""
    monkeypatch.setattr(Effort, "lacks", lambda *_: False)


def test_without_a_gpu_the_rows_say_what_they_need(monkeypatch):
    monkeypatch.undo()
    rows = kernels(Effort("cpu", quick=True))
    assert [row.goal for row in rows] == [0.85, 0.85, None, None, 1.02, 1.16, *[None] * 6]
    assert [row.unit for row in rows] == ["speed"] * 4 + ["time"] * 8
    for row in rows:
        assert (row.value, row.met) == (None, None)
        assert row.note == "not measured: needs --device cuda"


def test_sizes():
    # 8 * 4096 * 4096 of 4 bytes are 0.54 GB
    assert sum(a * b for a, b in large_shapes(Effort())) * 4 == 536870912
    # the actor: 256 * 27 + 256 + 256 * 256 + 256 + 8 * 256 + 8
    assert sum(torch.Size(shape).numel() for shape in small_shapes()[:6]) == 75016


def test_the_copy_moves_the_given_number_of_bytes(monkeypatch):
    copies = []
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t: copies.append(empty_like(t)) or copies[-1])
    copy_call(64, "cpu")()
    assert copies[0].numel() * copies[0].element_size() * 2 == 64
    assert copies[0].tolist() == [0.0] * 8


@with_kernels
@pytest.mark.parametrize(
    ("measure", "unit", "case"),
    [
        *((decay_row, "speed", case) for case in DECAY_CASES),
        *((large_adam_row, "time", case) for case in ADAM_CASES),
    ],
)
def test_rows_of_large_weights(measure, unit, case):
    row = measure(QUICK, *case)
    assert (row.unit, row.goal) == (unit, case[-1])
    assert row.value > 0
    assert row.note.endswith("GB/s")


@pytest.mark.skipif(not CUDA or INTERPRETED, reason="needs a CUDA device")
def test_all_rows_on_a_gpu():
    rows = kernels(QUICK)
    assert len(rows) == len(DECAY_CASES) + 2 * len(ADAM_CASES)
    assert len({row.case for row in rows}) == len(rows)
    assert all(row.value > 0 for row in rows)


def test_the_row_of_a_small_network_is_in_microseconds():
    row = small_adam_row(Effort("cpu", quick=True, rounds=1), "eager", {"fused": True})
    assert row.goal is None
    assert row.note.endswith("µs")
