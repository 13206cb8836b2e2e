import pytest
import torch
from networks_in_training import adam, images, marker, single, stacked
from torch import nn

from plasticity.mitigations.parameter_roles import output_layers, parameter_roles
from plasticity.units import trace_units


def test_roles_of_a_convolution_two_dense_layers_and_normalizations():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5),
        nn.LayerNorm(5), nn.PReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    flow = trace_units(model.eval(), torch.zeros(2, 1, 3, 3))
    roles = parameter_roles(model, output_layers(flow))
    assert {name: (each.kind, each.fan_in, each.is_output) for name, each in roles.items()} == {
        "0.weight": ("weight", 4, False),
        "0.bias": ("bias", 4, False),
        "1.weight": ("scale", 1, False),
        "1.bias": ("offset", 1, False),
        "4.weight": ("weight", 12, False),
        "4.bias": ("bias", 12, False),
        "5.weight": ("scale", 1, False),
        "5.bias": ("offset", 1, False),
        "6.weight": ("other", 0, False),  # the slopes of PReLU
        "7.weight": ("weight", 5, True),
        "7.bias": ("bias", 5, True),
    }
    assert roles["4.bias"].layer == "4"


def test_embeddings_are_no_weights():
    roles = parameter_roles(nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2)), {"1"})
    assert roles["0.weight"].kind == "other"
    assert roles["1.weight"].kind == "weight"


def test_two_heads_are_both_outputs():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.policy, self.value = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, inputs):
            features = torch.tanh(self.body(inputs))
            return self.policy(features), self.value(features)

    assert output_layers(trace_units(Heads(), torch.zeros(2, 3))) == {"policy", "value"}


def test_an_output_that_cannot_be_followed_is_refused():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, inputs):
            return torch.fft.rfft(self.layer(inputs)).abs()

    flow = trace_units(Sorted(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="which layer makes the model's output"):
        output_layers(flow)


def test_stacked_networks_have_the_roles_of_one():
    alone = single(marker(), adam(marker()), images())
    together, _, _ = stacked([marker(seed) for seed in range(2)], images())
    assert together.roles == alone.roles
    assert {name for name, each in alone.roles.items() if each.is_output} == {
        "head.weight",
        "head.bias",
    }


def test_a_layer_that_is_the_whole_model_is_the_output():
    model = nn.Linear(3, 2)
    roles = parameter_roles(model, output_layers(trace_units(model, torch.zeros(2, 3))))
    assert all(each.is_output for each in roles.values())
