"""Tests of the degree of symmetry that rows of metrics have."""

import copy
import math

import pytest
import torch
from torch import nn

from plasticity.symmetry.distances import attention_heads, rotation_eigenvalues
from plasticity.symmetry.relative_degree import relative_degree_of_symmetry, typical_distance
from plasticity.symmetry.report import symmetry_distances, symmetry_report

INPUTS = torch.randn(4, 1, 10, 10, generator=torch.Generator().manual_seed(0))


def network(width=20):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(100, width),
        nn.ReLU(),
        nn.Linear(width, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def degrees(model):
    return relative_degree_of_symmetry(model, lambda inner: inner(INPUTS))


def numbers(model):
    return {name: degree.item() for name, degree in degrees(model).items()}


def test_the_typical_distance_is_the_root_mean_square():
    assert typical_distance(torch.tensor([3.0, 4.0, 5.0, 0.0])).item() == pytest.approx(
        math.sqrt(50 / 4)
    )
    assert typical_distance(torch.zeros(3)).item() == 0


def test_the_bound_is_a_share_of_the_initial_distance_at_the_beginning():
    # Neurons of one distribution are about equally far apart: the mean and the root mean square agree.
    for distances in symmetry_distances(network(), inputs=INPUTS).values():
        assert typical_distance(distances).item() == pytest.approx(
            distances.mean().item(), rel=0.02
        )
    assert numbers(network()) == {"1": 0, "3": 0}


def test_identical_and_nearly_identical_neurons_are_counted():
    model, initial = network(), symmetry_distances(network(), inputs=INPUTS)
    with torch.no_grad():
        for neuron in (1, 2, 3, 4):  # 5 of 20 are one: 4 of the 19 pairs
            model[1].weight[neuron] = model[1].weight[0]
            model[1].bias[neuron] = model[1].bias[0]
            model[3].weight[:, neuron] = model[3].weight[:, 0]
        model[1].weight[4, 0] += 0.01
    assert numbers(model) == {"1": 4, "3": 0}
    report = symmetry_report(
        model, 0.1, inputs=INPUTS, reference={n: d.mean() for n, d in initial.items()}
    )
    assert numbers(model) == {name: degree.item() for name, degree in report.items()}


def test_the_scale_of_all_weights_does_not_matter():
    model = network()
    with torch.no_grad():
        model[1].weight[1:6] = 1.001 * model[1].weight[0]
        model[3].weight[:, 1:6] = model[3].weight[:, :1]
        model[1].bias.zero_()
    expected = numbers(model)
    assert expected["1"] == 5
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.mul_(1e-3)
    assert numbers(smaller) == expected


@pytest.mark.parametrize("alive", [0, 1, 5])
def test_a_layer_that_has_collapsed_to_few_neurons(alive):
    # The others are at a thousandth of their weights, and not quite equal: no distance is 0.
    model = network()
    with torch.no_grad():
        for tensor in (model[1].weight[alive:], model[1].bias[alive:], model[3].weight[:, alive:]):
            tensor.mul_(0.0 if alive == 0 else 1e-3)
    # 19 pairs, of which those with a living neuron are far apart: `alive` of them, as these have the largest
    # norms.
    assert numbers(model)["1"] == 19 - alive


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.output = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.output(self.attention(tokens, tokens, tokens)[0])


def test_directions_of_attention_are_summed_over_heads():
    model, tokens = Attention(), torch.randn(3, 5, 8)
    with torch.no_grad():  # rows 0 and 1 of head 0, row 5 of head 1, of queries and keys
        for row in (0, 1, 5):
            model.attention.in_proj_weight[[row, 8 + row]] *= 1e-4
    found = relative_degree_of_symmetry(model, lambda inner: inner(tokens))
    eigenvalues = rotation_eigenvalues(*attention_heads(model.attention))
    assert found["attention"].item() == (eigenvalues < 1e-6).sum().item() == 3


def test_weights_that_are_not_finite_are_refused():
    model = network()
    with torch.no_grad():
        model[5].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="'5' has weights that are NaN or infinite"):
        degrees(model)


def test_a_network_without_hidden_neurons_has_none_and_says_why():
    model = nn.Linear(3, 2)
    with pytest.warns(
        UserWarning, match="Rows have no degree_of_symmetry: the model has no weight"
    ):
        assert relative_degree_of_symmetry(model, lambda net: net(torch.ones(1, 3))) == {}
