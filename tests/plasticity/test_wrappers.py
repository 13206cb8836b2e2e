"""Wrapped networks have the same names and numbers as bare ones."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from plasticity.metrics.capture import capture
from plasticity.metrics.gradients import gradient_covariance_rank, neural_tangent_kernel, ntk_rank
from plasticity.metrics.norms import (
    anchor_distance,
    gradient_norm,
    parameter_snapshot,
    update_norm,
    weight_norm,
)
from plasticity.metrics.registry import METRICS
from plasticity.metrics.tracker import Tracker
from plasticity.metrics.trainability import trainability
from plasticity.wrappers import bypassed, named_modules, named_parameters, raw_module, unwrapped


class Trunk(nn.Module):
    """Module with a child named as in a wrapper, although it is not one."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(5, 8)
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(self.module(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.relu(self.trunk(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def group(tmp_path):
    """Process group of one process, as DistributedDataParallel requires."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


def trunk_wrapped(wrap):
    def wrapped(model):
        model.trunk = wrap(model.trunk)
        return model

    return wrapped


WRAPPERS = {
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "distributed": DistributedDataParallel,
    "compiled distributed": lambda model: compiled(DistributedDataParallel(model)),
    "distributed compiled": lambda model: DistributedDataParallel(compiled(model)),
    "averaged": AveragedModel,
    "checkpointed": checkpoint_wrapper,
    "compiled part": trunk_wrapped(compiled),
    "data parallel part": trunk_wrapped(nn.DataParallel),
    "distributed part": trunk_wrapped(DistributedDataParallel),
    "checkpointed part": trunk_wrapped(checkpoint_wrapper),
    "parts of parts": trunk_wrapped(lambda trunk: compiled(DistributedDataParallel(trunk))),
}  # fmt: skip

UNLABELLED = [name for name, metric in METRICS.items() if metric.kind != "loss"]
"""Metrics that need no labels."""


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_numbers_and_names_equal_those_of_the_network_inside(wrap, model):
    probe, targets = torch.randn(16, 5), torch.randint(3, (16,))
    plain = copy.deepcopy(model)
    expected = Tracker(plain, probe, UNLABELLED).measure()
    names = [name for name, _ in model.named_parameters()]
    snapshot = parameter_snapshot(model)
    wrapped = wrap(model)
    wrapped(probe)  # measure after the first call of a compiled function
    tracker = Tracker(wrapped, probe, UNLABELLED)
    assert tracker.measure() == expected
    assert list(parameter_snapshot(wrapped)) == names
    assert list(tracker.measure())[-4:] == list(expected)[-4:]
    assert weight_norm(wrapped) == weight_norm(plain)
    # The snapshot was taken before wrapping.
    assert float(update_norm(wrapped, snapshot)["total"]) == 0
    assert list(anchor_distance(wrapped, snapshot)) == ["trunk.module", "head", "total"]
    assert torch.equal(neural_tangent_kernel(wrapped, probe), neural_tangent_kernel(plain, probe))
    assert ntk_rank(wrapped, probe) == ntk_rank(plain, probe)
    rank = gradient_covariance_rank(wrapped, probe, targets)
    assert rank == gradient_covariance_rank(plain, probe, targets)
    with capture(wrapped, ["trunk.act", "head"]) as activations:
        wrapped(probe)
    assert torch.equal(activations["head"], plain(probe).detach())
    F.cross_entropy(wrapped(probe), targets).backward()
    assert list(gradient_norm(wrapped)) == ["trunk.module", "head", "total"]
    torch._dynamo.reset()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, DistributedDataParallel])
def test_trainability_of_a_wrapped_network(wrap, model):
    inputs = torch.randn(8, 5)
    expected = trainability(model, inputs, steps=3)
    assert trainability(wrap(model), inputs, steps=3, fresh=None) == expected
    fresh = copy.deepcopy(model)
    assert trainability(model, inputs, steps=3, fresh=wrap(fresh)) == trainability(
        model, inputs, steps=3, fresh=fresh
    )
    torch._dynamo.reset()


@pytest.mark.usefixtures("group")
def test_no_collective_operation_while_measuring(model, monkeypatch):
    """Let one rank measure alone: a broadcast of its buffers would wait forever for the others."""
    model.trunk.register_buffer("calls", torch.zeros(()))
    model.trunk = DistributedDataParallel(model.trunk)

    def refused(*_args, **_kwargs):
        raise AssertionError("a collective operation")

    monkeypatch.setattr(DistributedDataParallel, "_sync_buffers", refused)
    with pytest.raises(AssertionError, match="collective"):
        model(torch.randn(4, 5))
    Tracker(model, torch.randn(4, 5)).boundary(task=0)
    assert "forward" not in model.trunk.__dict__


def test_names_of_shared_parts_and_parameters(model):
    model.again = nn.DataParallel(model.trunk)
    model.head.weight = nn.Parameter(torch.zeros(3, 8))
    model.tied = model.head
    assert [name for name, _ in named_modules(model)] == [
        "", "trunk", "trunk.module", "trunk.act", "head",
    ]  # fmt: skip
    every = [name for name, _ in named_modules(model, remove_duplicate=False)]
    assert every == [
        "", "trunk", "trunk.module", "trunk.act", "head",
        "again", "again.module", "again.act", "tied",
    ]  # fmt: skip
    expected = [(n, p) for n, p in model.named_parameters()]
    found = list(named_parameters(model))
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert all(a is b for (_, a), (_, b) in zip(found, expected, strict=True))


def test_bypassing_ends_after_an_error(model):
    model.trunk = nn.DataParallel(model.trunk)

    def look():
        with bypassed(model):
            assert "forward" in model.trunk.__dict__
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        look()
    assert "forward" not in model.trunk.__dict__


def test_raw_module_returns_the_module_inside(model):
    assert raw_module(model) is model
    assert raw_module(compiled(nn.DataParallel(model))) is model
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        raw_module(F.relu)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_is_rejected_where_its_parts_matter():
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="whose activations cannot be observed"):
        raw_module(traced)
    assert "total" in weight_norm(traced)


@pytest.mark.parametrize(
    "look",
    [
        unwrapped, raw_module, weight_norm, gradient_norm, parameter_snapshot,
        lambda model: update_norm(model, {}),
        lambda model: Tracker(model, torch.zeros(4, 5)),
        lambda model: capture(model).__enter__(),
        lambda model: ntk_rank(model, torch.zeros(4, 5)),
        lambda model: trainability(model, torch.zeros(4, 5)),
    ],
)  # fmt: skip
def test_a_network_on_the_meta_device_is_rejected(look):
    with torch.device("meta"):
        model = Network()
    with pytest.raises(
        ValueError, match=r"'trunk\.module\.weight' is on the meta device.*to_empty"
    ):
        look(model)


def test_a_buffer_on_the_meta_device_is_rejected(model):
    model.register_buffer("table", torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="buffer 'table' is on the meta device"):
        Tracker(model, torch.zeros(4, 5))
