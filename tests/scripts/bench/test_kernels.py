"""Measurement of the kernels: its rows without a GPU, and a run of each of its parts."""

import os

import pytest
import torch

from plasticity.scripts.bench.kernels import (
    ADAM_CASES,
    COMMAND,
    DECAY_CASES,
    adam_pair,
    copy_call,
    decay_row,
    kernels,
    large_adam_row,
    large_shapes,
    small_adam_row,
    small_shapes,
)
from plasticity.scripts.bench.rows import Effort

CUDA = torch.cuda.is_available()
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
QUICK = Effort("cuda" if CUDA and not INTERPRETED else "cpu", quick=True, rounds=1)
with_kernels = pytest.mark.skipif(
    not (CUDA or INTERPRETED),
    reason="needs a CUDA device (test_kernels.py runs this in Triton's interpreter)",
)


def test_without_a_gpu_the_rows_say_what_they_need():
    rows = kernels(Effort("cpu", quick=True))
    assert [row.goal for row in rows] == [0.85, 0.85, None, None, 1.02, 1.16, None, None]
    assert [row.bound for row in rows] == ["at least"] * 4 + ["at most"] * 4
    for row in rows:
        assert (row.value, row.met) == (None, None)
        assert row.note == f"not measured: needs a CUDA device; {COMMAND}"


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


def test_the_two_sides_have_equal_parameters_and_gradients():
    ours, theirs = adam_pair(Effort("cpu", quick=True), [(3, 4), (3,)], {"fused": True})
    assert theirs.param_groups[0]["weight_decay"] == ours.param_groups[0]["strength"]
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)


@with_kernels
@pytest.mark.parametrize("case", DECAY_CASES, ids=lambda case: case[0])
def test_decay_rows(case):
    row = decay_row(QUICK, *case)
    assert (row.measurement, row.unit, row.goal) == ("kernels", "speed", case[-1])
    assert row.value > 0
    assert row.note.endswith("GB/s")


@with_kernels
@pytest.mark.parametrize("case", ADAM_CASES, ids=lambda case: case[0])
def test_adam_rows(case):
    row = large_adam_row(QUICK, *case)
    assert (row.measurement, row.unit, row.goal) == ("kernels", "time", case[-1])
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
