"""Tests of the kernels without a GPU: interpreted, compiled for one, and the errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plasticity.optim.kernels import step
from plasticity.optim.kernels.step import KERNELS, make_kernels, step_options
from plasticity.optim.regularizers import regularized

HERE = Path(__file__).parent
TESTS = HERE.parents[2]
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
needs_triton = pytest.mark.skipif(
    not step.importlib.util.find_spec("triton"), reason="needs triton (Linux only)"
)


# ---- the kernels' tests in the interpreter ----------------------------------------------------------


# Triton reads the variable when it is imported, so these run in a separate process.
@needs_triton
def test_interpreted_on_the_cpu():
    files = [str(HERE / f"test_{name}.py") for name in ("anchor", "decay", "adam")]
    files.append(str(TESTS / "scripts" / "bench" / "test_kernels.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# ---- compiled for a GPU that is not present ---------------------------------------------------------

ADAM = {
    **{"table": "*i64", "program_rows": "*i32", "numbers": "*fp32"},
    **dict.fromkeys(["weight1", "beta2", "weight2", "epsilon"], "fp32"),
}
DECAY = {"table": "*i64", "program_rows": "*i32", "numbers": "*fp32", "amount": "fp32"}


def compiled(function, types, constants, capability):
    """Compile a kernel with Triton for NVIDIA GPUs of a compute capability."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = function.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    pointers = [i for i, name in enumerate(names) if signature[name].startswith("*")]
    aligned = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(function, signature, constants, aligned)
    return compile(source, target=GPUTarget("cuda", capability, 32))


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
def test_aligned_tensors_are_read_16_bytes_at_a_time_and_draws_stay_in_registers(
    capability, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import language as tl

    from plasticity.optim.kernels.adam import adam_kernel, count_kernel
    from plasticity.optim.kernels.decay import decay_kernel
    from plasticity.optim.kernels.tensor_table import CHUNK

    common = {"dtype": tl.float32, "aligned": True, "chunk": CHUNK}
    adam = {"decays": True, "decoupled": False, "maximize": False}
    decay = {"amount_on_device": False, "decoupled": False}
    # 8 elements per thread are two reads per tensor: parameter, gradient, moments, stored anchor
    for anchor, adam_reads in ((0, 8), (1, 10), (2, 8)):
        for function, types, own, reads in (
            (adam_kernel, ADAM, adam, adam_reads),
            (decay_kernel, DECAY, decay, adam_reads - 4),
        ):
            made = compiled(function, types, {**common, **own, "anchor": anchor}, capability)
            assert made.asm["ptx"].count("ld.global.v4") == reads
            assert made.metadata.shared == 0  # elements and their draws are in the same thread
            assert "local" not in made.asm["ptx"]  # and no register spills
    steps = {
        **{"table": "*i64", "numbers": "*fp32", "rate": "*fp32", "count": "i32"},
        **dict.fromkeys(["strength", "log_beta1", "log_beta2"], "fp32"),
    }
    own = {"rate_on_device": True, "decoupled": True, "rows": 128}
    compiled(count_kernel, steps, own, capability)
    half = {**common, **adam, "anchor": 2, "dtype": tl.bfloat16, "aligned": False}
    assert "cvt.rn.bf16" in compiled(adam_kernel, ADAM, half, capability).asm["ptx"]


# ---- missing requirements ---------------------------------------------------------------------------


def test_eager_is_the_default_and_needs_nothing(monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    assert make_kernels("eager", torch.optim.Adam) is None
    optimizer = regularized(torch.optim.Adam)([torch.ones(2, requires_grad=True)])
    assert "kernel" not in optimizer.param_groups[0]


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_a_missing_triton_is_reported(kernel, monkeypatch):
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=f'"{kernel}"|{kernel!r} needs triton, which is not'):
        regularized(torch.optim.Adam)([torch.ones(2, requires_grad=True)], kernel=kernel)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter is on")
def test_a_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        RuntimeError, match=r"needs a CUDA device.*kernel=\"eager\".*TRITON_INTERPRET"
    ):
        regularized(torch.optim.SGD)([torch.ones(2, requires_grad=True)], kernel="triton")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter is on")
def test_a_parameter_that_is_not_on_a_gpu_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parameter = torch.ones(2, requires_grad=True)
    optimizer = regularized(torch.optim.Adam)([parameter], kernel="triton")
    parameter.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="this parameter is on cpu: move the model there"):
        optimizer.step()


def test_options_of_the_fastest_step(monkeypatch):
    cpu, sgd, adam = torch.device("cpu"), torch.optim.SGD, torch.optim.Adam
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert step_options("eager", adam, cpu) == {"kernel": "eager", "fused": True}
    with pytest.raises(RuntimeError, match="triton"):
        step_options("triton", adam, cpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: object())
    # Adam's whole step is a kernel of ours; SGD's is torch's fused one after the decay.
    assert step_options("triton", adam, cpu) == {"kernel": "triton", "fused": False}
    assert step_options("triton", sgd, cpu) == {"kernel": "triton", "fused": True}


def test_unknown_kernels():
    with pytest.raises(ValueError, match=r"Unknown kernel 'tritn'\. Did you mean 'triton'"):
        make_kernels("tritn", torch.optim.Adam)
    with pytest.raises(TypeError, match="kernel must be a string, not True"):
        make_kernels(True, torch.optim.Adam)


def test_importing_the_library_does_not_import_triton():
    code = (
        "import plasticity, sys; assert not any(m.split('.')[0] == 'triton' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
