"""Tests of `--kernel`: where it is refused, and that a run with it has the numbers of a run without."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from plasticity.optim.kernels import step
from plasticity.scripts.config.options import default_options
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.control_experiment import ControlExperiment
from plasticity.scripts.run.kernels import require_kernels
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment


def configured(benchmark, kernel, device="cpu"):
    config = default_options(benchmark).run_config("none", 0)
    return replace(config, agent=replace(config.agent, kernel=kernel), device=device)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize("benchmark", ["permuted-digits", "slippery-ant"])
def test_a_kernel_on_a_cpu_is_refused_before_anything_runs(benchmark, monkeypatch):
    config = configured(benchmark, "triton")
    experiment = SupervisedExperiment if benchmark == "permuted-digits" else ControlExperiment
    with pytest.raises(
        RunError, match=r"--kernel triton: .*needs a CUDA device, and the device is"
    ):
        experiment.require_runnable([config])
    require_kernels([configured(benchmark, "eager")])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    require_kernels([config])


def test_a_missing_triton_is_refused(monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RunError, match=r"--kernel triton-drawn: .* needs triton, which is not"):
        require_kernels([configured("permuted-digits", "triton-drawn", "cuda")])


def test_runs_with_a_kernel_are_not_stacked(monkeypatch):
    assert SupervisedExperiment.can_stack(configured("permuted-digits", "eager"))
    assert not SupervisedExperiment.can_stack(configured("permuted-digits", "triton"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(
        ValueError, match="slippery-ant-warp are stacked, with a step of their own: leave"
    ):
        ControlExperiment.require_runnable([configured("slippery-ant-warp", "triton")])


# Triton reads the variable when it is imported, so this runs in a separate process.
@pytest.mark.parametrize("kernel", ["triton", "triton-drawn"])
def test_a_run_in_the_interpreter_equals_an_eager_one(kernel, tmp_path):
    pytest.importorskip("triton", reason="needs triton (Linux only)")
    run = [sys.executable, "-m", "plasticity.scripts.main", "run", "permuted-digits"]
    method = "--methods syre --syre.strength 0.01 --syre.sigma 1"
    learner = "--architecture mlp --optimizer adam --momentum 0 --batch-size 1400"
    rows = {}
    for name in ("eager", kernel):
        options = f"{method} {learner} --kernel {name} --tasks 1 --seeds 0 --jobs 1".split()
        subprocess.run(
            [*run, *options, "--out", str(tmp_path / name)],
            env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=True,
        )
        (file,) = (tmp_path / name).rglob("metrics.jsonl")
        rows[name] = json.loads(file.read_text())
    assert rows[kernel]["train_loss"] == pytest.approx(rows["eager"]["train_loss"], rel=1e-5)
