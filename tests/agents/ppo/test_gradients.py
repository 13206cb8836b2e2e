"""Explicit backpropagation of one and of stacked dense networks, and autograd's for any network."""

from functools import partial

import pytest
import torch
from torch import nn

from plasticity.agents.execution.dense import DenseGradients
from plasticity.agents.execution.single import SingleNetwork
from plasticity.agents.networks.actor_critic import DenseNetwork, initialise
from plasticity.agents.networks.layers import ACTIVATIONS, DenseLayer
from plasticity.agents.ppo.gradients import AutogradGradients, gradients_of
from plasticity.network_spec import LayerSpec
from plasticity.stacking.networks import StackedNetworks


def make(activation="tanh", hidden=(5, 4), *, seed=0, dtype=torch.float64):
    network = DenseNetwork(3, hidden, 2, LayerSpec(activations=(ACTIVATIONS[activation],)))
    generator = torch.Generator().manual_seed(seed)
    initialise(network, "orthogonal", head_gain=1.0, generator=generator)
    for layer in network.layers():
        nn.init.normal_(layer.bias, generator=generator)
    return network.to(dtype)


class Normalized(nn.Module):
    """Network that is not dense."""

    def __init__(self, seed):
        super().__init__()
        self.body = make(seed=seed)
        self.norm = nn.LayerNorm(2, dtype=torch.float64)
        self.unused = nn.Linear(1, 1, dtype=torch.float64)
        self.register_buffer("scale", torch.full((), 1.0 + seed, dtype=torch.float64))

    def forward(self, inputs):
        return self.norm(self.body(inputs)) * self.scale


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Found:
    """Gradients of one network or of three stacked ones, and autograd's of each."""

    def __init__(self, form, networks):
        self.networks = networks[:1] if form == "single" else networks
        self.lead = () if form == "single" else (3,)
        if form == "single":
            self.gradients = gradients_of(SingleNetwork(networks[0]), 7)
            self.parameters = dict(networks[0].named_parameters())
        else:
            stacked = StackedNetworks([nn.ModuleDict({"part": each}) for each in networks])
            self.gradients = gradients_of(stacked.part("part"), 7)
            self.parameters = {
                name.removeprefix("part."): tensor for name, tensor in stacked.parameters.items()
            }

    def _of(self, tensor, index):
        return tensor[index] if self.lead else tensor

    def assert_equals_autograd(self, seed):
        inputs, gradient = draw(*self.lead, 7, 3, seed=seed), draw(*self.lead, 7, 2, seed=seed + 9)
        kept = gradient.clone()
        outputs = self.gradients.forward(inputs)
        assert not outputs.requires_grad
        torch.testing.assert_close(self.gradients(inputs), outputs)
        torch.testing.assert_close(self.gradients(inputs[..., :2, :]), outputs[..., :2, :])
        self.gradients.backward(gradient)
        assert torch.equal(gradient, kept)
        for index, network in enumerate(self.networks):
            expected = network(self._of(inputs, index))
            torch.testing.assert_close(self._of(outputs, index), expected.detach())
            wanted = torch.autograd.grad(
                expected, list(network.parameters()), self._of(gradient, index), allow_unused=True
            )
            for name, each in zip(dict(network.named_parameters()), wanted, strict=True):
                found = self.parameters[name].grad
                if each is None:
                    assert found is None or not self._of(found, index).any()
                else:
                    torch.testing.assert_close(self._of(found, index), each)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (5, 4), (4, 6, 3)])
def test_dense_networks_equal_autograd(form, activation, hidden):
    found = Found(form, [make(activation, hidden, seed=seed) for seed in range(3)])
    assert isinstance(found.gradients, DenseGradients)
    for seed in (0, 1):  # the second pass overwrites the first
        found.assert_equals_autograd(seed)


def test_other_networks_are_differentiated_by_autograd(form):
    found = Found(form, [Normalized(seed) for seed in range(3)])
    assert isinstance(found.gradients, AutogradGradients)
    for seed in (0, 1):
        found.assert_equals_autograd(seed)


@pytest.mark.parametrize(
    "layer",
    [
        LayerSpec(activations=(torch.sin, torch.cos)),
        LayerSpec(normalization=partial(nn.LayerNorm, dtype=torch.float64)),
        LayerSpec(activations=(torch.sigmoid,)),
        LayerSpec(gate=lambda shape: nn.Tanh()),
        LayerSpec(noise=partial(nn.Threshold, 0.3, 0.0)),
    ],
)
def test_other_layers_of_a_dense_network_are_differentiated_by_autograd(form, layer):
    networks = [DenseNetwork(3, (6, 4), 2, layer).double() for _ in range(3)]
    found = Found(form, networks)
    assert isinstance(found.gradients, AutogradGradients)
    found.assert_equals_autograd(0)


def test_a_subclass_with_its_own_forward_is_not_dense(form):
    class Doubled(DenseNetwork):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    networks = [make(seed=seed) for seed in range(3)]
    for network in networks:
        network.__class__ = Doubled
    Found(form, networks).assert_equals_autograd(0)


def without_bias(network):
    network.head = nn.Linear(4, 2, bias=False, dtype=torch.float64)


def with_another_activation(network):
    network.fc1 = DenseLayer(3, 4, LayerSpec(activations=(torch.sigmoid,))).double()


def with_a_layer_after_the_head(network):
    network.extra = nn.Linear(2, 2, dtype=torch.float64)


def with_tied_weights(network):
    network.fc2.weight = network.fc1.weight


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def with_a_parametrization(network):
    nn.utils.parametrize.register_parametrization(network.fc1, "weight", Doubled())


def with_a_hook(network):
    network.fc1.register_forward_hook(lambda layer, inputs, outputs: 2 * outputs)


@pytest.mark.parametrize(
    "change",
    [
        without_bias,
        with_another_activation,
        with_a_layer_after_the_head,
        with_tied_weights,
        with_a_parametrization,
        with_a_hook,
    ],
)
def test_a_dense_network_that_was_changed_is_differentiated_by_autograd(form, change):
    hidden = (3, 3) if change is with_tied_weights else (4, 4)
    networks = [make(hidden=hidden, seed=seed) for seed in range(3)]
    for network in networks:
        change(network)
    Found(form, networks).assert_equals_autograd(0)


def test_frozen_weights_of_a_dense_network_get_no_gradient(form):
    networks = [make(seed=seed) for seed in range(3)]
    for network in networks:
        network.fc1.weight.requires_grad_(False)
    found = Found(form, networks)
    found.gradients.forward(draw(*found.lead, 7, 3, seed=0))
    found.gradients.backward(draw(*found.lead, 7, 2, seed=1))
    assert found.parameters["fc1.weight"].grad is None
    assert found.parameters["fc1.bias"].grad.any()


def test_a_minibatch_may_be_a_view(form):
    found = Found(form, [make(seed=seed) for seed in range(3)])
    wide = draw(*found.lead, 7, 6, seed=0)
    expected = found.gradients.forward(wide[..., :3].contiguous()).clone()
    assert torch.equal(found.gradients.forward(wide[..., :3]), expected)


def test_a_dead_unit_gets_no_gradient(form):
    networks = [make("relu", seed=seed) for seed in range(3)]
    with torch.no_grad():
        for network in networks:
            network.fc1.weight[2] = 0
            network.fc1.bias[2] = -1
    found = Found(form, networks)
    found.gradients.forward(draw(*found.lead, 7, 3, seed=0))
    found.gradients.backward(draw(*found.lead, 7, 2, seed=1))
    assert not found.parameters["fc1.weight"].grad[..., 2, :].any()
    assert not found.parameters["fc2.weight"].grad[..., 2].any()
    assert found.parameters["fc1.weight"].grad.any()


@pytest.mark.parametrize("form", ["stacked"], indirect=True)
@pytest.mark.parametrize("kind", ["dense", "other"])
def test_nan_does_not_spread_to_other_networks(form, kind):
    networks = [
        make("relu", seed=seed) if kind == "dense" else Normalized(seed) for seed in range(3)
    ]
    found = Found(form, networks)
    with torch.no_grad():
        next(iter(found.parameters.values()))[1] = torch.nan
    outputs = found.gradients.forward(draw(3, 7, 3, seed=0)).clone()
    found.gradients.backward(draw(3, 7, 2, seed=1))
    assert outputs[1].isnan().all()
    gradients = [p.grad for p in found.parameters.values() if p.grad is not None]
    for numbers in (outputs, *gradients):
        assert numbers[[0, 2]].isfinite().all()


def test_float32_is_as_close_as_autograd():
    network, exact = (make("relu", (256, 256), dtype=d) for d in (torch.float32, torch.float64))
    inputs, gradient = draw(128, 3, seed=0).float(), draw(128, 2, seed=1).float()

    def by_autograd(network, dtype):
        outputs = network(inputs.to(dtype))
        return torch.autograd.grad(outputs, list(network.parameters()), gradient.to(dtype))

    expected, autograd = by_autograd(exact, torch.float64), by_autograd(network, torch.float32)
    gradients = gradients_of(SingleNetwork(network), 128)
    gradients.forward(inputs)
    gradients.backward(gradient)
    for parameter, theirs, wanted in zip(network.parameters(), autograd, expected, strict=True):
        error = (parameter.grad.double() - wanted).norm()
        assert error <= 2 * (theirs.double() - wanted).norm() + 1e-6 * wanted.norm()
