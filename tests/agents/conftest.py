"""Shared fixtures for the tests of the learners."""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plasticity.agents.execution import compiled


class Crossings(TorchDispatchMode):
    """Records transfers between the host and the device "meta", which computes only shapes.

    Anything else that would need the device's numbers on the host is an error there, and so is any operation
    on tensors of both devices. Data copied from the device arrives as zeros.
    """

    def __init__(self):
        super().__init__()
        self.into, self.out = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name == "copy_":
            to, source = args[:2]
            if source.is_meta and not to.is_meta:
                self.out.append(tuple(source.shape))
                return to.zero_()
            if to.is_meta and not source.is_meta:
                self.into.append(tuple(source.shape))
        found = func(*args, **(kwargs or {}))
        if name == "_to_copy" and found.is_meta and not args[0].is_meta:
            self.into.append(tuple(found.shape))
        return found


@pytest.fixture
def crossings():
    """Record transfers during a test of a learner with `device="meta"`."""
    with Crossings() as recorded:
        yield recorded


# Operations whose result torch reads back to the host: each makes the host wait for a GPU.
WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_dim",
    "_unique2",
}
READING = {"cpu", "item", "numpy", "tolist", "__array__"}


class _RaiseAtOperations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:2])
        )
        if name in WAITING or masks:
            raise AssertionError(f"{func} waits for the device.")
        return func(*args, **(kwargs or {}))


class _RaiseAtReading(TorchFunctionMode):
    """Catches methods that read a tensor on the CPU without dispatching an operation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING:
            raise AssertionError(f"{func} waits for the device.")
        return func(*args, **(kwargs or {}))


@contextmanager
def _raise_at_waiting():
    with _RaiseAtReading(), _RaiseAtOperations():
        yield


@pytest.fixture
def never_waits():
    """Return a context manager in which waiting for the device is an error; the CPU acts as the GPU."""
    return _raise_at_waiting


class _Graph:
    """CUDA graph on a CPU: repeats operations on the memory that they were captured with."""

    def __init__(self):
        self.calls = []

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, outputs in self.calls:
                again = tree_leaves(func(*args, **kwargs))
                for old, new in zip(outputs, again, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Capture(TorchDispatchMode):
    """Records operations. A GPU runs none of them during capture, so in-place changes are undone."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph
        self.before = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[index] if index < len(args) else kwargs.get(argument.name)
                for tensor in filter(torch.is_tensor, tree_leaves(given)):
                    # keep the whole storage, because other views of it may be written too
                    whole = tensor.untyped_storage()
                    self.before.setdefault(whole.data_ptr(), (whole, whole.clone()))
        outputs = func(*args, **kwargs)
        self.graph.calls.append((func, args, kwargs, tree_leaves(outputs)))
        return outputs

    def undo(self):
        for whole, before in self.before.values():
            whole.copy_(before)


class _Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


@pytest.fixture
def cuda_graphs_on_cpu(monkeypatch):
    """Run CUDA graphs of `plasticity.agents.execution.compiled` on a CPU; return the list of graphs.

    As on a GPU, a captured call runs only its operations, without Python, on fixed memory.
    """
    made = []

    def new_graph():
        made.append(_Graph())
        return made[-1]

    @contextmanager
    def graph(graph, stream=None):
        capture = _Capture(graph)
        with capture:
            yield
        capture.undo()

    @contextmanager
    def stream(stream):
        yield

    for name, fake in (
        ("CUDAGraph", new_graph),
        ("graph", graph),
        ("Stream", _Stream),
        ("stream", stream),
        ("current_stream", _Stream),
    ):
        monkeypatch.setattr(compiled.torch.cuda, name, fake)
    monkeypatch.setattr(compiled, "_kind", lambda device: "cuda")
    return made
