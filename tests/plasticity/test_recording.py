import pytest
import torch
from torch import nn

from plasticity.recording import record_inputs, recorded_inputs, recorded_sums


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def hooks_of(model):
    return [hook for each in model.modules() for hook in each._forward_pre_hooks.values()]


def test_inputs_of_the_named_layers():
    net, inputs = model(), torch.randn(5, 3)
    with recorded_inputs(net, ["0", "2"]) as found:
        outputs = net(inputs)
    assert found.keys() == {"0", "2"}
    assert found["0"] is inputs
    assert torch.equal(found["2"], torch.tanh(inputs @ net[0].weight.mT + net[0].bias))
    assert torch.equal(net[2](found["2"]), outputs)
    assert found["2"].requires_grad  # the graph is kept


def test_of_several_calls_the_last_one_is_recorded_until_the_end():
    net, inputs = model(), torch.randn(2, 5, 3)
    found = {}
    (handle,) = record_inputs(net, ["0"], found)
    net(inputs[0])
    net(inputs[1])
    assert found["0"] is not inputs[0]
    assert torch.equal(found["0"], inputs[1])
    handle.remove()
    net(inputs[0])
    assert torch.equal(found["0"], inputs[1])
    assert hooks_of(net) == []


def test_nothing_stays_behind_after_an_error():
    net = model()
    with pytest.raises(RuntimeError, match="shapes"), recorded_inputs(net, ["0", "2"]):
        net(torch.ones(5, 7))
    assert hooks_of(net) == []
    with pytest.raises(AttributeError, match="conv9"), recorded_inputs(net, ["conv9"]):
        pass


def test_sums_are_those_before_a_layers_own_activation():
    class Rectified(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).relu()

    net, inputs = nn.Sequential(Rectified(3, 4), nn.Conv1d(5, 2, 1)), torch.randn(5, 3)
    with recorded_sums(net, ["0", "1"]) as found:
        outputs = net(inputs)
    assert torch.equal(found["0"], nn.functional.linear(inputs, net[0].weight, net[0].bias))
    assert found["0"].min() < 0
    assert torch.equal(found["1"], outputs)
    assert hooks_of(net) == []
    refused = pytest.raises(
        ValueError, match="'1' must be a linear layer or a convolution, not Tanh"
    )
    with refused, recorded_sums(model(), ["0", "1"]):
        pass
