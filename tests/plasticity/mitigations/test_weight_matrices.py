import pytest
import torch
from networks_in_training import adam, context_of, images, marker, single, stacked
from torch import nn

from plasticity.mitigations import Parseval, Spectral
from plasticity.mitigations.attach import attach
from plasticity.mitigations.weight_matrices import (
    deviation_gradient,
    gram_deviation,
    gram_size,
    squared_deviation,
    weight_matrices,
)


def test_weights_are_matrices_of_units_by_what_each_reads():
    model = marker()
    context = context_of(single(model, adam(model), images()))
    shapes = {name: tuple(each.shape) for name, each in hidden(context).items()}
    assert shapes == {"conv.weight": (3, 4), "fc.weight": (5, 12)}
    every = weight_matrices(context, with_output=True)
    assert every["head.weight"] is not None
    networks, _, _ = stacked([marker(seed) for seed in range(2)], images())
    together = hidden(context_of(networks, 0, 1))
    assert together["conv.weight"].shape == (2, 3, 4)
    assert torch.equal(together["conv.weight"][0], hidden(context)["conv.weight"])


def hidden(context):
    return weight_matrices(context, with_output=False)


def test_the_deviation_is_that_of_the_smaller_gram_matrix():
    # W Wᵀ = [[2, 1], [1, 1]], minus the identity: [[1, 1], [1, 0]]
    weight = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert gram_deviation(weight).tolist() == [[1, 1], [1, 0]]
    # Columns of lengths 1 and 2, orthogonal: WᵀW = diag(1, 4)
    tall = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert gram_size(tall) == 2
    assert gram_deviation(tall).tolist() == [[0, 0], [0, 3]]
    assert gram_deviation(tall.T, 2.0).tolist() == [[-1, 0], [0, 2]]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_the_gradient_is_that_of_autograd(shape):
    weight = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(squared_deviation, (weight, target))
    values = squared_deviation(weight, target)
    (found,) = torch.autograd.grad(values.sum(), weight)
    deviation = gram_deviation(weight.detach(), target)
    torch.testing.assert_close(values.detach(), deviation.square().sum((1, 2)))
    torch.testing.assert_close(found, deviation_gradient(weight.detach(), deviation))


@pytest.mark.parametrize("mitigation", [Parseval(), Spectral()], ids=lambda each: each.name)
def test_penalties_on_weights_are_precise_inside_autocast(mitigation):
    found = []
    for is_on in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        attached = attach(network, optimizer, mitigation, inputs=torch.zeros(1, 4))
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            penalty = attached.penalty()
        penalty.backward()
        found.append((penalty.detach(), network[0].weight.grad))
    torch.testing.assert_close(found[0], found[1])


def test_second_derivatives_are_refused():
    weight = torch.randn(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(squared_deviation(weight, 1.0), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
