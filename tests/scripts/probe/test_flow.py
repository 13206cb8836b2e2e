"""Rows of the sheet, for networks of known structure."""

import torch
from torch import nn
from torch.nn import functional as F

from plasticity.scripts.probe.flow import Layer, trace


def names(flow):
    return [(each.name, each.activation, each.captured) for each in flow.layers]


def test_chain_with_every_module_that_keeps_neurons_separate():
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
        added = left + F.relu(self.added(left))  # not the output of a weight layer
        return self.head(torch.relu(added)) + right.sum(1, keepdim=True)


def test_functions_belong_to_the_layers_whose_units_they_compute():
    flow = trace(Functional(), (torch.randn(4, 3),))
    assert flow.layers == (
        Layer("body", "body", "relu", "relu"),
        Layer("left", "left", "tanh", "tanh"),
        Layer("right", "right", "sigmoid", "sigmoid"),
        Layer("added", "added", "relu", "relu#2"),
        Layer("relu#3", None, "relu", "relu#3"),
        Layer("head", "head", None, None),
    )


def test_activation_of_the_output_is_not_a_hidden_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Tanh())
    assert names(trace(model, (torch.randn(4, 3),))) == [("0", "relu", "1"), ("2", None, None)]


def test_second_activation_of_a_layer_has_its_own_row():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2))
    flow = trace(model, (torch.randn(4, 3),))
    assert names(flow) == [("0", "relu", "1"), ("2", "tanh", "2"), ("3", None, None)]


def test_activation_module_without_a_known_function():
    class Cube(nn.ReLU):
        def forward(self, x):
            return x**3

    model = nn.Sequential(nn.Linear(3, 4), Cube(), nn.Linear(4, 2))
    flow = trace(model, (torch.randn(4, 3),))
    assert names(flow) == [("0", "unknown", "1"), ("2", None, None)]


def test_attention_embeddings_and_recurrent_layers_have_no_rows():
    block = nn.TransformerEncoderLayer(8, 2, 5, batch_first=True)
    model = nn.Sequential(nn.Embedding(7, 8), block)
    rows = names(trace(model.eval(), (torch.randint(7, (2, 4)),)))
    assert rows == [
        ("1.self_attn.out_proj", None, None),
        ("1.linear1", "relu", "relu"),
        ("1.linear2", None, None),
    ]
    for kind in (nn.LSTM, nn.GRU):

        class Recurrent(nn.Sequential):
            def forward(self, x):
                return self[1](self[0](x)[0].relu())

        model = Recurrent(kind(3, 4), nn.Linear(4, 2))
        rows = names(trace(model, (torch.randn(5, 2, 3),)))
        assert rows == [("relu", "relu", "relu"), ("1", None, None)]


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


def test_no_hooks_or_gradients_remain():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    trace(model, (torch.randn(4, 3),))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model(torch.randn(4, 3)).requires_grad
