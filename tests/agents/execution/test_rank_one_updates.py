"""Memory of the updates, and which of them is chosen; what they compute is in test_rank_one.py."""

import copy
import io

import torch

from plasticity.agents.execution.rank_one_updates import (
    GoalUpdate,
    Memory,
    PlainUpdate,
    ScaledUpdate,
    update_of,
)
from plasticity.agents.networks import MLP
from plasticity.optim.linear_step import LinearStep


def make():
    torch.manual_seed(0)
    network = MLP(hidden=(5, 3)).make((4,), 2)
    before = copy.deepcopy(network.state_dict())
    weights, biases = (
        [each for name, each in network.named_parameters() if name.endswith(kind)]
        for kind in ("weight", "bias")
    )
    return network, before, Memory(weights, biases)


def test_parameters_keep_their_values_in_one_block():
    network, before, memory = make()
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    assert memory.holds()
    memory.whole.fill_(2.0)
    assert all((each == 2).all() for each in network.parameters())
    memory.all_biases.fill_(3.0)
    assert [float(each.max()) for each in network.state_dict().values()] == [2.0, 3.0] * 3
    # every weight begins at a multiple of 64 bytes; 20 + 15 + 6 weights take 32 + 16 + 16 places
    assert [each.storage_offset() for each in memory.weights] == [0, 32, 48]
    assert memory.whole.numel() == 64 + 10


def test_parameters_that_were_moved_elsewhere_are_noticed():
    network, _, memory = make()
    network.fc2.weight.data = network.fc2.weight.detach().clone()
    assert not memory.holds()


def test_copies_and_files_of_the_network_have_memory_of_their_own():
    network, before, memory = make()
    copied = copy.deepcopy(network)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    memory.whole.zero_()
    file.seek(0)
    for state in (copied.state_dict(), torch.load(file, weights_only=True)):
        assert all(torch.equal(each, before[name]) for name, each in state.items())


def test_the_form_follows_from_the_size_of_the_decay():
    _, _, memory = make()
    # float32 has an epsilon of 1.19e-7: an amount of 32 times that is 3.8e-6
    for strength, kind in ((0.0, PlainUpdate), (1e-2, ScaledUpdate), (1e-3, GoalUpdate)):
        assert type(update_of(memory, LinearStep({"lr": 0.003}, strength, None))) is kind
