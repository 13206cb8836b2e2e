"""One ordinary network and its optimizer behind the interfaces of stacked ones."""

import copy

import pytest
import torch

from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer


def make(*, captured=False):
    network = torch.nn.Linear(3, 2)
    return network, SingleOptimizer(torch.optim.Adam(network.parameters()), captured=captured)


@pytest.mark.parametrize("captured", [False, True])
def test_a_learning_rate_is_saved_as_a_number_and_keeps_its_place(captured):
    network, optimizer = make(captured=captured)
    network.bias.grad = torch.ones(2)
    before = network.bias.detach().clone()
    optimizer.set_learning_rate([0.25])
    places = [id(group["lr"]) for group in optimizer.ordinary.param_groups]
    optimizer.step()
    # Adam's first step is the rate times the sign of the gradient.
    moved = before - network.bias
    torch.testing.assert_close(moved, torch.full((2,), 0.25), rtol=2e-2, atol=0.0)
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.25]
    _, other = make(captured=captured)
    other.load_state_dict(0, copy.deepcopy(state))
    assert other.state_dict()["param_groups"] == state["param_groups"]
    optimizer.set_learning_rate([0.5])
    if captured:  # a captured step reads the rate where it was
        assert [id(group["lr"]) for group in optimizer.ordinary.param_groups] == places
        assert optimizer.ordinary.param_groups[0]["lr"].item() == 0.5


def test_learning_rates_that_a_scheduler_sets_are_saved_for_each_group():
    def make():
        network = torch.nn.Linear(3, 2)
        groups = [{"params": [each]} for each in network.parameters()]
        return SingleOptimizer(torch.optim.Adam(groups, lr=0.1))

    optimizer, other = make(), make()
    for group, rate in zip(optimizer.ordinary.param_groups, (0.02, 0.03), strict=True):
        group["lr"] = rate
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.02, 0.03]
    other.load_state_dict(0, state)
    assert [group["lr"] for group in other.ordinary.param_groups] == [0.02, 0.03]


def test_there_is_one_network():
    network, optimizer = make()
    for call in (optimizer.freeze, optimizer.state_dict, SingleNetwork(network).state_dict):
        with pytest.raises(IndexError, match="Index 1 is out of range"):
            call(1)


@pytest.mark.parametrize("always", [False, True])
def test_inputs_of_layers(always):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    network, inputs = SingleNetwork(model), torch.randn(5, 3)
    if always:
        network.always_record(["0", "2"])
        network.always_record(["0"])  # again changes nothing
    outputs, found = network.with_inputs_of(["0", "2"], inputs)
    assert torch.equal(outputs, model(inputs))
    assert found["0"] is inputs
    assert torch.equal(found["2"], torch.tanh(model[0](inputs)))
    assert network.with_inputs_of([], inputs)[1].keys() == ({"0", "2"} if always else set())
