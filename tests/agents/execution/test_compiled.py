"""Captured and compiled steps compared with the same functions called eagerly."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from plasticity.agents.execution import compiled
from plasticity.agents.execution.compiled import CompiledStep, GraphedFunction, optimizer_constants
from plasticity.optim.regularizers import regularized

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

REGULARIZERS = [
    {"regularizer": "none"},
    {"regularizer": "weight-decay", "strength": 0.1},
    {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anchor_seed": 3},
    {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anchor_seed": 3, "decoupled": True},
    {"regularizer": "syre", "strength": 0.1, "sigma": 0.5, "anisotropy": 0.2, "anchor_seed": 3},
    {"regularizer": "l2-init", "strength": 0.1},
]

BASES = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.AdamW, {"lr": 0.01}),
]


class Learner:
    """Small network that learns to output zeros."""

    def __init__(self, base=torch.optim.SGD, extra=None, settings=None, device="cpu"):
        generator = torch.Generator().manual_seed(1)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(device)
        for parameter in self.network.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        extra = {"lr": 0.1, **(extra or {})}
        if base is not torch.optim.SGD:
            extra["capturable"] = device == "cuda"
        settings = settings or {"regularizer": "none"}
        self.optimizer = regularized(base)(
            self.network.parameters(), **settings, **extra, fused=True
        )

    def forward(self, inputs):
        outputs = self.network(inputs)
        return outputs.square().mean(), outputs

    def update(self, loss, outputs, inputs):
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def eagerly(self, inputs):
        loss, outputs = self.forward(inputs)
        self.update(loss, outputs, inputs)
        return loss.detach(), outputs.detach()

    def compiled(self, device):
        return CompiledStep(
            self.forward,
            self.update,
            device=device,
            constants=lambda: optimizer_constants(self.optimizer),
        )

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])


def batches(count, rows=5, seed=0):
    return torch.randn(count, rows, 3, generator=torch.Generator().manual_seed(seed))


# ---- CUDA graphs, simulated on a CPU ----------------------------------------------------------------


@pytest.mark.parametrize("settings", REGULARIZERS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize(("base", "extra"), BASES)
def test_a_captured_step_equals_the_eager_step(cuda_graphs_on_cpu, base, extra, settings):
    here, there = Learner(base, extra, settings), Learner(base, extra, settings)
    step = there.compiled("cpu")
    for inputs in batches(9):
        for expected, found in zip(here.eagerly(inputs), step(inputs), strict=True):
            assert torch.equal(expected, found)
    assert torch.equal(here.weights(), there.weights())
    assert len(cuda_graphs_on_cpu) == 1


def test_python_runs_only_until_the_capture(cuda_graphs_on_cpu):
    calls = []

    def double(inputs):
        calls.append(1)
        return {"doubled": inputs * 2}

    function = GraphedFunction(double, device="cpu")
    for count in range(10):
        inputs = torch.full((2,), float(count))
        assert torch.equal(function(inputs)["doubled"], inputs * 2)
    assert len(calls) == compiled.WARM_UP_CALLS + 1


def test_outputs_of_a_step_are_not_overwritten(cuda_graphs_on_cpu):
    step = Learner().compiled("cpu")
    found = [step(inputs) for inputs in batches(6)]
    copies = [tuple(output.clone() for output in outputs) for outputs in found]
    step(batches(1, seed=2)[0])
    for outputs, expected in zip(found, copies, strict=True):
        assert all(map(torch.equal, outputs, expected))


def test_every_shape_has_its_own_capture(cuda_graphs_on_cpu):
    here, there = Learner(), Learner()
    step = there.compiled("cpu")
    for full, ragged in zip(batches(6), batches(6, rows=2), strict=True):
        for inputs in (full, ragged):
            here.eagerly(inputs)
            step(inputs)
    assert torch.equal(here.weights(), there.weights())
    assert len(cuda_graphs_on_cpu) == 2


def test_a_changed_learning_rate_is_not_ignored(cuda_graphs_on_cpu):
    here, there = Learner(), Learner()
    step = there.compiled("cpu")
    for index, inputs in enumerate(batches(16)):
        for learner in (here, there):
            learner.optimizer.param_groups[0]["lr"] = 0.1 if index < 8 else 0.01
        here.eagerly(inputs)
        step(inputs)
    assert torch.equal(here.weights(), there.weights())
    assert len(cuda_graphs_on_cpu) == 2


def test_a_learning_rate_on_the_device_needs_no_second_capture(cuda_graphs_on_cpu):
    base, rates = torch.optim.Adam, [torch.tensor(0.1), torch.tensor(0.1)]
    here, there = (Learner(base, {"lr": rate}) for rate in rates)
    step = there.compiled("cpu")
    for index, inputs in enumerate(batches(10)):
        for rate in rates:
            rate.fill_(0.1 / (1 + index))
        here.eagerly(inputs)
        step(inputs)
    assert torch.equal(here.weights(), there.weights())
    assert len(cuda_graphs_on_cpu) == 1


def test_training_continues_from_a_loaded_state(cuda_graphs_on_cpu):
    base, extra, settings = torch.optim.Adam, {"lr": 0.01}, REGULARIZERS[2]
    here, there = (Learner(base, extra, settings) for _ in range(2))
    step = there.compiled("cpu")
    for inputs in batches(6):
        step(inputs)
    there.network.load_state_dict(here.network.state_dict())
    there.optimizer.load_state_dict(copy.deepcopy(here.optimizer.state_dict()))
    step.forget()
    for inputs in batches(6, seed=1):
        here.eagerly(inputs)
        step(inputs)
    assert torch.equal(here.weights(), there.weights())


def test_too_many_shapes(cuda_graphs_on_cpu):
    function = GraphedFunction(torch.square, device="cpu")
    for rows in range(compiled.MOST_SHAPES):
        function(torch.zeros(rows))
    with pytest.raises(ValueError, match=r"\[\(99,\)\] would need capture number 9"):
        function(torch.zeros(99))


def test_inputs_on_another_device(cuda_graphs_on_cpu):
    function = GraphedFunction(torch.square, device="cpu")
    for _ in range(5):  # also when it is captured
        function(torch.zeros(2))
    with pytest.raises(ValueError, match="Input 0 is on meta, but the graph is on cpu: move"):
        function(torch.zeros(2, device="meta"))


def test_a_graph_needs_cuda():
    with pytest.raises(ValueError, match="needs a CUDA device, not cpu: leave out compile"):
        GraphedFunction(torch.square, device="cpu")


def test_unsupported_devices():
    learner = Learner()
    with pytest.raises(
        ValueError, match="compile works on cpu and cuda, not on meta: leave it out"
    ):
        learner.compiled("meta")


# ---- torch.compile on a CPU (with its compiler: tests/agents/supervised/test_classifier.py) ----------


@pytest.fixture
def without_inductor(monkeypatch):
    """Let torch.compile trace without compiling."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def test_compiled_steps_do_not_count_against_each_other(without_inductor):
    """torch keeps eight versions of a function, and runs further ones eagerly or raises an error."""
    for _ in range(12):
        here, there = Learner(), Learner()
        step = there.compiled("cpu")
        for rows in (5, 2):
            inputs = batches(1, rows)[0]
            here.eagerly(inputs)
            step(inputs)
        assert torch.equal(here.weights(), there.weights())


def test_a_forward_that_is_not_one_graph_is_an_error(without_inductor):
    def forward(inputs):
        return (inputs.sum() if inputs.sum() > 0 else -inputs.sum(),)

    step = CompiledStep(forward, lambda loss, inputs: None, device="cpu")
    with pytest.raises(Exception, match="Data-dependent branching"):
        step(torch.ones(2))


# ---- on a GPU ---------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("settings", REGULARIZERS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize(("base", "extra"), BASES)
def test_captured_and_eager_agree_on_a_gpu(base, extra, settings):
    here, there = (Learner(base, extra, settings, device="cuda") for _ in range(2))
    step = there.compiled("cuda")
    for full, ragged in zip(batches(8).cuda(), batches(8, rows=2).cuda(), strict=True):
        for inputs in (full, ragged):
            for expected, found in zip(here.eagerly(inputs), step(inputs), strict=True):
                torch.testing.assert_close(expected, found)
    torch.testing.assert_close(here.weights(), there.weights())


@needs_cuda
def test_a_replay_never_waits():
    learner = Learner(torch.optim.Adam, settings=REGULARIZERS[2], device="cuda")
    step = learner.compiled("cuda")
    given = batches(8).cuda()
    for inputs in given[:5]:
        step(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for inputs in given[5:]:
            step(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_a_changed_learning_rate_and_a_loaded_state_on_a_gpu():
    here, there = (
        Learner(torch.optim.Adam, settings=REGULARIZERS[2], device="cuda") for _ in range(2)
    )
    step = there.compiled("cuda")
    for index, inputs in enumerate(batches(16).cuda()):
        for learner in (here, there):
            learner.optimizer.param_groups[0]["lr"] = 0.01 if index < 8 else 0.001
        here.eagerly(inputs)
        step(inputs)
    torch.testing.assert_close(here.weights(), there.weights())
    there.optimizer.load_state_dict(copy.deepcopy(here.optimizer.state_dict()))
    there.network.load_state_dict(here.network.state_dict())
    step.forget()
    for inputs in batches(6, seed=1).cuda():
        here.eagerly(inputs)
        step(inputs)
    torch.testing.assert_close(here.weights(), there.weights())


@needs_cuda
def test_a_graph_on_a_gpu_rejects_inputs_on_the_host():
    function = GraphedFunction(torch.square, device="cuda")
    with pytest.raises(ValueError, match="Input 0 is on cpu, but the graph is on cuda:0"):
        function(torch.zeros(2))
