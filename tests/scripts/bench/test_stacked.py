import importlib.util

import pytest
import torch

from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.stacked import stacked_ants, stacked_images

QUICK = Effort(quick=True)

needs_warp = pytest.mark.skipif(
    importlib.util.find_spec("mujoco_warp") is None, reason="needs MuJoCo Warp"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_stacked_classifiers_are_measured():
    (row,) = stacked_images(QUICK)
    assert row.value > 0
    assert row.goal is None
    assert "no goal" in row.note


def test_speeds_are_steps_of_all_runs_per_second(monkeypatch):
    # ours 0.4 s for all, one alone 0.3 s, two of them 0.6 s: 0.6 / 0.4
    times = {"ours": (0.4,), "theirs": (0.3,)}
    monkeypatch.setattr(Effort, "in_turns", lambda *_, **__: times)
    (row,) = stacked_images(QUICK)
    assert row.value == pytest.approx(0.6 / 0.4)
    # 2 runs of 2 steps in 0.4 s and in 0.6 s
    assert row.note.endswith("10 / 7 steps/s")


@needs_warp
def test_stacked_ants_are_measured():
    (row,) = stacked_ants(QUICK)
    assert row.value > 0
    assert "steps/s" in row.note


def test_without_warp_the_row_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (row,) = stacked_ants(QUICK)
    assert row.value is None
    assert "plasticity[gpu]" in row.note


@needs_cuda
def test_on_a_gpu_every_comparison_is_made():
    effort = Effort(device="cuda", quick=True)
    assert len(stacked_images(effort)) == 4
    assert stacked_images(effort)[0].goal == 15
