"""Explicit backpropagation compared with autograd in float64, for every activation."""

import pytest
import torch

from plasticity.agents.networks.actor_critic import DenseNetwork, initialise
from plasticity.agents.networks.image import ACTIVATIONS
from plasticity.agents.ppo.dense_gradients import ACTIVATION_GRADIENTS, DenseGradients


def make(activation, hidden=(5, 4), dtype=torch.float64):
    network = DenseNetwork(3, hidden, 2, activation)
    generator = torch.Generator().manual_seed(0)
    initialise(network, "orthogonal", head_gain=1.0, generator=generator)
    return network.to(dtype)


def by_autograd(network, inputs, gradient):
    outputs = network(inputs)
    return outputs, torch.autograd.grad(outputs, list(network.parameters()), gradient)


def test_every_activation_has_a_gradient():
    assert set(ACTIVATION_GRADIENTS) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (5, 4), (4, 6, 3)])
def test_equals_autograd(activation, hidden):
    network = make(activation, hidden)
    gradients = DenseGradients(network, batch_size=7)
    for seed in (0, 1):  # the second pass overwrites the first
        generator = torch.Generator().manual_seed(seed)
        inputs, gradient = (
            torch.randn(7, size, generator=generator, dtype=torch.float64) for size in (3, 2)
        )
        outputs, expected = by_autograd(network, inputs, gradient)
        torch.testing.assert_close(gradients.forward(inputs), outputs)
        kept = gradient.clone()
        gradients.backward(gradient)
        for parameter, wanted in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, wanted)
        assert torch.equal(gradient, kept)


def test_a_dead_unit_gets_no_gradient():
    network = make("relu")
    with torch.no_grad():
        network.fc1.weight[2] = 0
        network.fc1.bias[2] = -1
    gradients = DenseGradients(network, batch_size=4)
    gradients.forward(torch.randn(4, 3, dtype=torch.float64))
    gradients.backward(torch.ones(4, 2, dtype=torch.float64))
    assert not network.fc1.weight.grad[2].any()
    assert not network.fc2.weight.grad[:, 2].any()
    assert network.fc1.weight.grad.any()


def test_float32_is_as_close_as_autograd():
    network = make("relu", (256, 256), torch.float32)
    exact = make("relu", (256, 256))
    inputs, gradient = torch.randn(128, 3), torch.randn(128, 2)
    _, expected = by_autograd(exact, inputs.double(), gradient.double())
    _, autograd = by_autograd(network, inputs, gradient)
    gradients = DenseGradients(network, batch_size=128)
    gradients.forward(inputs)
    gradients.backward(gradient)
    for parameter, theirs, wanted in zip(network.parameters(), autograd, expected, strict=True):
        error = (parameter.grad.double() - wanted).norm()
        assert error <= 2 * (theirs.double() - wanted).norm() + 1e-6 * wanted.norm()
