"""Sigma-asymmetric networks: the published formula for both kinds of layers, and whole runs."""

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from plasticity.agents.networks import CNN, MLP
from plasticity.mitigations import (
    LayerNorm,
    SigmaAsymmetric,
    Syre,
    WAsymmetric,
    WeightDecay,
    mitigation_names,
    network_spec,
)
from plasticity.mitigations.sigma_asymmetric import RandomGate
from plasticity.network_spec import LayerSpec

ALONE = (SigmaAsymmetric(),)


def build(config, shape=(1, 9, 9), seed=3, method=ALONE):
    torch.manual_seed(0)
    network = config.build(network_spec(method, config.spec(shape, 3)))
    for each in method:
        each.initial_weights(network, seed)
    return network


def test_by_hand():
    network = build(MLP(hidden=(2,)), shape=(2,))
    network.fc1.weight.data.copy_(torch.eye(2))
    network.fc1.bias.data.zero_()
    network.fc1.gate.matrix.copy_(torch.tensor([[0.0, 1.0], [3.0, 0.0]]))
    # x = (1, -2): C x = (-2, 3)
    expected = torch.tensor([1.0, -2.0]) * torch.sigmoid(torch.tensor([-2.0, 3.0]))
    assert torch.equal(network.fc1(torch.tensor([1.0, -2.0])), expected)


def test_a_convolution_mixes_the_channels_of_each_position():
    network, images = build(CNN(channels=(4,), hidden=(5,))), torch.randn(6, 1, 9, 9)
    sums = functional.conv2d(images, network.conv1.weight, network.conv1.bias, 2, 1)
    matrix = network.conv1.gate.matrix[:, :, 0, 0]
    expected = sums * torch.sigmoid(torch.einsum("dc,bchw->bdhw", matrix, sums))
    torch.testing.assert_close(network.conv1(images), expected)


def test_the_spread_of_the_matrix():
    dense, maps = RandomGate((400,), 2.0), RandomGate((400, 3, 3), 2.0)
    assert dense.matrix.isnan().all()
    for gate, expected in ((dense, 2.0), (maps, 2.0 / 20)):
        gate.draw(torch.Generator().manual_seed(0))
        assert gate.matrix.std().item() == pytest.approx(expected, rel=0.01)


def test_the_sums_are_normalized_first_and_the_last_layer_is_as_it_was():
    for method in ((LayerNorm(), SigmaAsymmetric()), (SigmaAsymmetric(), LayerNorm())):
        network = build(MLP(hidden=(6,)), shape=(4,), method=method)
        inputs = torch.randn(5, 4)
        sums = functional.layer_norm(
            functional.linear(inputs, network.fc1.weight, network.fc1.bias), (6,)
        )
        expected = sums * torch.sigmoid(sums @ network.fc1.gate.matrix.T)
        torch.testing.assert_close(network.fc1(inputs), expected)
        assert type(network.fc2) is nn.Linear


def test_matrices_are_fixed_persistent_and_drawn_from_the_seed():
    one, other, third = (build(MLP(hidden=(6, 6)), shape=(4,), seed=seed) for seed in (1, 1, 2))
    assert "fc1.gate.matrix" in one.state_dict()
    assert "fc1.gate.matrix" not in dict(one.named_parameters())
    assert torch.equal(one.fc1.gate.matrix, other.fc1.gate.matrix)
    assert not torch.equal(one.fc1.gate.matrix, third.fc1.gate.matrix)
    assert not torch.equal(one.fc1.gate.matrix, one.fc2.gate.matrix)
    assert torch.equal(one.fc2.weight, third.fc2.weight)  # no other draw has changed
    assert torch.equal(pickle.loads(pickle.dumps(one))(torch.ones(1, 4)), one(torch.ones(1, 4)))


def test_exchanging_two_units_changes_the_outputs():
    """Not so without C: that is the symmetry that it removes."""
    inputs, order = torch.randn(5, 4), [1, 0, 2]
    for method, is_symmetric in (((), True), ((SigmaAsymmetric(),), False)):
        network = build(MLP(hidden=(3,)), shape=(4,), method=method)
        before = network(inputs)
        with torch.no_grad():
            network.fc1.weight.copy_(network.fc1.weight[order])
            network.fc1.bias.copy_(network.fc1.bias[order])
            network.fc2.weight.copy_(network.fc2.weight[:, order])
        assert torch.allclose(network(inputs), before, atol=1e-6) == is_symmetric


def test_it_is_refused_where_it_cannot_act():
    with pytest.raises(ValueError, match="both set the activation"):
        mitigation_names("crelu+sigma-asymmetric")
    with pytest.raises(ValueError, match="Linear was built without sigma-asymmetric: build it"):
        SigmaAsymmetric().initial_weights(nn.Linear(2, 2), 0)
    with pytest.raises(TypeError, match="3 cannot be called"):
        LayerSpec(gate=3)
    with pytest.raises(ValueError, match="deviation must be a finite number of at least 0"):
        SigmaAsymmetric(deviation=-1.0)


def test_whole_runs(stacked_as_alone, continues_exactly):
    syre = (LayerNorm(), SigmaAsymmetric(), Syre(strength=0.01, sigma=0.3))
    decay = WeightDecay(strength=0.01)
    stacked_as_alone(
        (LayerNorm(), SigmaAsymmetric()), syre, (decay, LayerNorm(), SigmaAsymmetric())
    )
    continues_exactly(syre)
    continues_exactly((*syre, WAsymmetric()), stacked=True)
