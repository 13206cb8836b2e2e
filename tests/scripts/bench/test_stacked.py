import importlib.util

import pytest
import torch

from plasticity.scripts.bench import stacked as bench_stacked
from plasticity.scripts.bench.rows import Effort
from plasticity.scripts.bench.stacked import stacked_ants, stacked_images
from plasticity.scripts.bench.timing import Comparison

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


def test_the_time_of_one_run_is_multiplied_by_the_number_of_runs(monkeypatch):
    # ours 4 s for all, one alone 3 s, five of them 15 s: 15 / 4
    monkeypatch.setattr(Effort, "compare", lambda *args, **kwargs: Comparison((4.0,), (3.0,)))
    row = bench_stacked._run_row("name", "case", QUICK, None, None, num_stacked=5, steps=20)
    assert row.value == pytest.approx(15 / 4)
    # 5 runs of 20 steps in 4 s and in 15 s
    assert row.note == "25 / 7 steps/s"


def test_a_turn_has_its_steps_and_the_next_one_continues():
    class Trainer:
        done, tasks = 0, 0

        def train(self, task, should_stop):
            while self.done < 5:
                if should_stop():
                    return False
                self.done += 1
            return True

        def finish(self, task):
            self.done, self.tasks = 0, self.tasks + 1

    trainer = Trainer()
    bench_stacked._train(trainer, None, 3)
    assert (trainer.tasks, trainer.done) == (0, 3)
    bench_stacked._train(trainer, None, 4)
    assert (trainer.tasks, trainer.done) == (1, 2)


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
