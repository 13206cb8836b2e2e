"""Explicit backpropagation of stacked networks compared with that of each network separately."""

import pytest
import torch

from plasticity.agents.networks.actor_critic import DenseNetwork, initialise
from plasticity.agents.networks.image import ACTIVATIONS
from plasticity.agents.ppo.dense_gradients import DenseGradients
from plasticity.agents.ppo.stacked_gradients import StackedDense, StackedDenseGradients
from plasticity.stacking.networks import StackedNetworks


def make(activation="tanh", hidden=(5, 4), num_stacked=3):
    networks = []
    for seed in range(num_stacked):
        network = DenseNetwork(3, hidden, 2, activation).double()
        generator = torch.Generator().manual_seed(seed)
        initialise(network, "lecun", head_gain=1.0, generator=generator)
        for layer in network.layers():
            torch.nn.init.normal_(layer.bias, generator=generator)
        networks.append(network)
    return networks, StackedDense(StackedNetworks(networks).parameters, "", activation)


def draw(seed, size, num_stacked=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_stacked, 7, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (5, 4), (4, 6, 3)])
def test_each_stacked_network_has_the_gradients_of_its_network(activation, hidden):
    networks, dense = make(activation, hidden)
    gradients = StackedDenseGradients(dense, batch_size=7)
    for seed in (0, 1):  # the second pass overwrites the first
        inputs, gradient = draw(seed, 3), draw(seed + 2, 2)
        outputs = gradients.forward(inputs)
        torch.testing.assert_close(dense(inputs), outputs)
        kept = gradient.clone()
        gradients.backward(gradient)
        assert torch.equal(gradient, kept)
        for index, network in enumerate(networks):
            one = DenseGradients(network, batch_size=7)
            torch.testing.assert_close(outputs[index], one.forward(inputs[index]))
            one.backward(gradient[index])
            for stacked, own in zip(dense.parameters, network.parameters(), strict=True):
                torch.testing.assert_close(stacked.grad[index], own.grad)


def test_a_minibatch_may_be_a_view():
    _, dense = make()
    gradients = StackedDenseGradients(dense, batch_size=7)
    wide = draw(0, 6)
    expected = gradients.forward(wide[..., :3].contiguous()).clone()
    assert torch.equal(gradients.forward(wide[..., :3]), expected)


def test_nan_does_not_spread_to_other_networks():
    _, dense = make("relu")
    gradients = StackedDenseGradients(dense, batch_size=7)
    with torch.no_grad():
        dense.weights[0][1, 0, 0] = torch.nan
    outputs = gradients.forward(draw(0, 3))
    gradients.backward(draw(1, 2))
    for found in (outputs, dense.weights[1].grad, dense.biases[0].grad):
        assert found[[0, 2]].isfinite().all()
    assert outputs[1].isnan().all()


def test_layers_are_found_by_their_names():
    _, dense = make()
    again = dict(zip("abcdef", dense.parameters, strict=True))
    named = {f"{name}.weight": again[name] for name in "ace"}
    named |= {f"{a}.bias": again[b] for a, b in ("ab", "cd", "ef")}
    found = StackedDense(
        {f"actor.{name}": tensor for name, tensor in named.items()}, "actor.", "tanh"
    )
    for one, other in zip(found.parameters, dense.parameters, strict=True):
        assert one is other
    assert not StackedDense(named, "critic.", "tanh").weights
