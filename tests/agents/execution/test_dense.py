"""Written-out passes of dense networks; those against autograd are in ppo/test_gradients.py."""

import pytest
import torch
from torch import nn

from plasticity.agents.execution.dense import (
    ACTIVATION_GRADIENTS,
    IN_PLACE,
    DenseGradients,
    dense_activation,
)
from plasticity.agents.networks import CNN, MLP
from plasticity.agents.networks.layers import ACTIVATIONS
from plasticity.mitigations import MITIGATIONS


def test_every_activation_has_a_gradient():
    assert set(ACTIVATION_GRADIENTS) == set(ACTIVATIONS)
    assert set(IN_PLACE) < set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_activations_equal_autograd(name):
    sums = torch.linspace(-3, 3, 31, dtype=torch.float64).requires_grad_()
    features = ACTIVATIONS[name](sums)
    given = torch.linspace(1, 2, 31, dtype=torch.float64)
    (expected,) = torch.autograd.grad(features, sums, given)
    gradient = given.clone()
    kept = (sums.detach().clone(), features.detach().clone())
    found = ACTIVATION_GRADIENTS[name](gradient, *kept)
    assert found is gradient  # in place
    torch.testing.assert_close(found, expected)
    assert torch.equal(kept[0], sums)
    assert torch.equal(kept[1], features)


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_activation_in_place_leaves_what_its_gradient_needs(name):
    sums = torch.linspace(-3, 3, 31)
    expected = ACTIVATIONS[name](sums)
    features = IN_PLACE[name](sums)
    assert features is sums
    assert torch.equal(features, expected)
    # the sums are gone: any numbers in their place give the same
    ones = torch.ones(31)
    found = ACTIVATION_GRADIENTS[name](ones.clone(), torch.full((31,), torch.nan), features)
    assert torch.equal(found, ACTIVATION_GRADIENTS[name](ones, features, features))


def test_a_batch_of_another_size_has_memory_of_its_own():
    network = MLP(hidden=(5,)).make((3,), 2)
    passes = DenseGradients(dict(network.named_parameters()), "relu", 4)
    for size in (4, 3, 4):
        inputs = torch.linspace(-1, 1, 3 * size).view(size, 3)
        outputs = passes.forward(inputs)
        torch.testing.assert_close(outputs, network(inputs).detach())
        passes.backward(torch.ones(size, 2))
        found = [each.grad.clone() for each in network.parameters()]
        expected = torch.autograd.grad(network(inputs).sum(), list(network.parameters()))
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_mlp_is_dense_and_other_networks_are_not(activation):
    assert dense_activation(MLP(hidden=(5, 4), activation=activation).make((3,), 2)) == activation
    assert dense_activation(CNN().make((1, 8, 8), 2)) is None
    assert dense_activation(nn.Sequential(nn.Linear(3, 2))) is None


@pytest.mark.parametrize("name", ["layer-norm", "crelu", "dropout", "fourier-features"])
def test_an_mlp_with_other_layers_is_not_dense(name):
    network = MLP(hidden=(6, 4)).make((3,), 2, (MITIGATIONS[name](),))
    assert dense_activation(network) is None
