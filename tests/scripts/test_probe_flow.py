"""Who reads whom, against networks whose wiring is written here."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from plasticity.scripts.probe_flow import Layer, trace


def pairs(model, *inputs):
    return set(trace(model.eval(), inputs).pairs)


def names(flow):
    return [(each.name, each.activation, each.captured) for each in flow.layers]


def test_chain_with_everything_that_keeps_neurons_apart():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(),
        nn.Flatten(),
        nn.Linear(3 * 3 * 3, 7),
        nn.LayerNorm(7),
        nn.Tanh(),
        nn.Linear(7, 2),
    )
    flow = trace(model.eval(), (torch.randn(4, 1, 8, 8),))
    assert flow.pairs == (("0", "6"), ("6", "9"))
    assert names(flow) == [("0", "relu", "2"), ("6", "tanh", "8"), ("9", None, None)]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.left = nn.Linear(4, 5)
        self.right = nn.Linear(4, 6)
        self.added = nn.Linear(5, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        x = F.relu(self.body(x))  # read by two layers
        left = self.left(x).tanh()  # read by a layer and by the addition
        right = torch.sigmoid(self.right(x))  # read by the sum
        added = left + F.relu(self.added(left))  # no weight layer's own output
        return self.head(torch.relu(added)) + right.sum(1, keepdim=True)


def test_several_readers_and_other_readers():
    flow = trace(Functional(), (torch.randn(4, 3),))
    assert set(flow.pairs) == {("body", "left"), ("body", "right")}
    assert flow.layers == (
        Layer("body", "body", "relu", "relu"),
        Layer("left", "left", "tanh", "tanh"),
        Layer("right", "right", "sigmoid", "sigmoid"),
        Layer("added", "added", "relu", "relu#2"),
        Layer("relu#3", None, "relu", "relu#3"),
        Layer("head", "head", None, None),
    )


def test_reading_a_shape_is_no_reading():
    class Reshaping(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            assert (x.shape, x.dim(), x.size(0), x.device.type) == ((4, 5), 2, 4, "cpu")
            return self[1](x.clone().double().float())

    assert pairs(Reshaping(nn.Linear(3, 5), nn.Linear(5, 2)), torch.randn(4, 3)) == {("0", "1")}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: torch.cat([x, x], 1)[:, :5],
        lambda x: x.softmax(1),
        lambda x: x.split(5, 1)[0],
    ],
)
def test_what_mixes_or_moves_neurons_is_not_followed(function):
    class Mixing(nn.Sequential):
        def forward(self, x):
            return self[1](function(self[0](x)))

    assert pairs(Mixing(nn.Linear(3, 5), nn.Linear(5, 2)), torch.randn(4, 3)) == set()


def test_grouped_convolution_is_no_layer_of_exchangeable_channels():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    assert pairs(model, torch.randn(2, 2, 5, 5)) == set()


def test_layer_that_reads_itself_has_no_pairs():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(3, 1))
    assert pairs(model, torch.randn(4, 3)) == set()


def test_activation_that_makes_the_output_is_no_hidden_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    assert names(trace(model, (torch.randn(4, 3),))) == [("0", "relu", "1"), ("2", None, None)]


def test_second_activation_of_a_layer_has_its_own_row():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2))
    flow = trace(model, (torch.randn(4, 3),))
    assert names(flow) == [("0", "relu", "1"), ("2", "tanh", "2"), ("3", None, None)]
    assert flow.pairs == (("0", "3"),)


def test_activation_module_without_a_known_function():
    class Cube(nn.ReLU):
        def forward(self, x):
            return x**3

    model = nn.Sequential(nn.Linear(3, 4), Cube(), nn.Linear(4, 2))
    flow = trace(model, (torch.randn(4, 3),))
    assert names(flow) == [("0", None, None), ("2", None, None), ("1", "unknown", "1")]


def test_restricted_to_other_hidden_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2), nn.Tanh())
    flow = trace(model, (torch.randn(4, 3),))
    restricted = flow.restricted(["memory", "2"])
    assert names(restricted) == [
        ("memory", None, "memory"),
        ("0", None, None),
        ("2", "tanh", "2"),
        ("3", None, None),
    ]
    assert restricted.pairs == flow.pairs


def test_nothing_is_left_behind():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    trace(model, (torch.randn(4, 3),))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model(torch.randn(4, 3)).requires_grad
