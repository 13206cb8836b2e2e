"""preserve_state restores a module, whatever its forward pass does to it."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.metrics.tracker import Tracker
from plasticity.preserve_state import preserve_state


class Writing(nn.Module):
    """Module with a buffer and a forward pass that changes it."""

    def __init__(self, buffer, write):
        super().__init__()
        self.register_buffer("before", torch.zeros(1))
        self.register_buffer("n", buffer)
        self.register_buffer("after", torch.zeros(1))
        self.write = write

    def forward(self):
        self.write(self)


def in_data(module):
    module.n.data += 1


def in_place(module):
    module.n += 1


def replaced(module):
    module.n = torch.full((7,), 5.0)


def data_replaced(module):
    module.n.data = torch.full((7,), 5.0)


def resized(module):
    module.n.resize_(5).fill_(1)


def made_smaller(module):
    module.n.resize_(1).fill_(1)


def memory_replaced(module):
    module.n.set_(torch.full((7,), 5.0))


def deleted(module):
    del module.n


def attribute_instead(module):
    del module.n
    module.__dict__["n"] = 3


def emptied(module):
    module.n = None


def registered(module):
    module.register_buffer("more", torch.ones(1), persistent=False)


def moved_to_another_dtype(module):
    module.double()


def as_an_inference_tensor(module):
    with torch.inference_mode():
        module.n.add_(1)


def inference_tensor():
    with torch.inference_mode():
        return torch.zeros(3)


BUFFERS = {
    "zeros": lambda: torch.zeros(3),
    "NaN": lambda: torch.tensor([torch.nan, -0.0, torch.inf]),
    "strided": lambda: torch.arange(6.0)[::2],
    "scalar": lambda: torch.zeros(()),
    "empty": lambda: torch.empty(0),
    "inference": inference_tensor,
}
WRITES = (
    in_data, in_place, replaced, data_replaced, resized, made_smaller, memory_replaced, deleted,
    attribute_instead, emptied, registered, moved_to_another_dtype, as_an_inference_tensor,
)  # fmt: skip


def bits(tensor):
    return tensor.detach().contiguous().clone().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("buffer", BUFFERS)
def test_buffers_are_restored(write, buffer):
    if buffer == "inference" and write not in (
        replaced,
        deleted,
        registered,
        as_an_inference_tensor,
    ):
        pytest.skip("torch refuses it itself")
    model = Writing(BUFFERS[buffer](), write)
    kept = model.n
    bits_before, layout = bits(kept), (kept.shape, kept.stride(), kept.dtype, kept.data_ptr())
    names = list(model.state_dict())
    with preserve_state(model):
        model()
    assert model.n is kept
    assert bits(kept) == bits_before
    assert (kept.shape, kept.stride(), kept.dtype) == layout[:3]
    if write not in (resized, made_smaller):  # which may move the memory
        assert kept.data_ptr() == layout[3]
    assert list(model.state_dict()) == names
    assert list(dict(model.named_buffers())) == ["before", "n", "after"]
    assert not model._non_persistent_buffers_set
    assert "n" not in model.__dict__


def test_a_counter_written_through_data_is_restored():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x):
            self.n.data += 1
            return torch.relu(self.fc(x))

    model = Counting()
    tracker = Tracker(model, torch.randn(6, 3))
    tracker.measure()
    tracker.boundary(task=0)
    assert model.n == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*reduce_range.*")
def test_a_fake_quantised_network_is_restored():
    from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver

    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.fake = FakeQuantize(
                MovingAveragePerChannelMinMaxObserver, ch_axis=1, quant_min=-128, quant_max=127,
                dtype=torch.qint8, qscheme=torch.per_channel_symmetric,
            )  # fmt: skip

        def forward(self, x):
            return self.fake(torch.relu(self.fc(x)))

    model = Quantised()
    before = copy.deepcopy(model.state_dict())
    assert before["fake.activation_post_process.min_val"].shape == (0,)
    Tracker(model, torch.randn(6, 3)).boundary(task=0)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    model(torch.randn(6, 3))  # it still learns its ranges
    assert model.fake.activation_post_process.min_val.shape == (4,)


def test_parameters_written_by_a_forward_pass_are_restored():
    embedding = nn.Embedding(4, 3, max_norm=0.1)  # scales down each row that it looks up
    before = embedding.weight.detach().clone()
    assert bool((before.norm(dim=1) > 0.1).all())
    model = nn.Sequential(embedding, nn.ReLU())
    Tracker(model, torch.tensor([[0, 1], [2, 3]])).boundary(task=0)
    assert torch.equal(embedding.weight, before)
    assert embedding.weight.requires_grad


def test_buffers_that_share_memory_are_restored():
    memory = torch.zeros(4)
    first = Writing(memory[:2], in_data)
    second = Writing(memory[1:], in_data)
    second.shared = first
    with preserve_state(second):
        second()
        first()
        assert memory.tolist() == [1, 2, 1, 1]
    assert memory.tolist() == [0, 0, 0, 0]
    assert first.n.data_ptr() == memory.data_ptr()


def test_an_unchanged_buffer_is_not_written_to():
    model = Writing(torch.full((3,), torch.nan), lambda module: None)
    model.register_buffer("expanded", torch.ones(1, 3).expand(2, 3))  # cannot be written to at all
    versions = {name: buffer._version for name, buffer in model.named_buffers()}
    with preserve_state(model):
        model()
    assert {name: buffer._version for name, buffer in model.named_buffers()} == versions


def test_a_later_backward_pass_works_after_writes_through_data():
    model = Writing(torch.tensor([2.0]), in_data)
    weight = torch.tensor([3.0], requires_grad=True)
    loss = weight * model.n
    with preserve_state(model):
        model()
    loss.backward()
    assert weight.grad.tolist() == [2.0]


def test_random_state_of_every_library_is_restored():
    def draw(_module):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002

    def drawn():
        return (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002

    model = Writing(torch.zeros(1), draw)
    seeds = [lambda: torch.manual_seed(3), lambda: np.random.seed(3), lambda: random.seed(3)]  # noqa: NPY002
    for seed in seeds:
        seed()
    expected = drawn()
    for seed in seeds:
        seed()
    with preserve_state(model):
        model()
    assert drawn() == expected


def test_everything_is_restored_after_an_error():
    def write(module):
        in_data(module)
        replaced(module)
        raise RuntimeError("on purpose")

    model = Writing(torch.zeros(3), write).train()
    kept = model.n
    with pytest.raises(RuntimeError, match="on purpose"), preserve_state(model):
        model()
    assert model.n is kept
    assert kept.tolist() == [0, 0, 0]
    assert model.training
