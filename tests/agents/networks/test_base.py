"""Registration of architectures, and the settings that all networks have."""

import copy
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from plasticity.agents.networks import CNN, MLP, NETWORKS, Network, network
from plasticity.initialization import Constant
from plasticity.mitigations import LayerNorm
from plasticity.stacking.networks import StackedNetworks


@dataclass(frozen=True, kw_only=True)
class Linear(Network):
    depth: int = 1

    def build(self, spec):
        return nn.Linear(spec.input_shape[0], spec.output_size)


def test_the_decorator_names_an_architecture(monkeypatch):
    monkeypatch.setattr("plasticity.agents.networks.base.NETWORKS", known := dict(NETWORKS))
    assert network("linear")(Linear) is Linear
    assert known["linear"] is Linear
    assert replace(Linear(), depth=2).architecture == "linear"
    assert (CNN().architecture, MLP().architecture) == ("cnn", "mlp")
    with pytest.raises(
        ValueError, match="an architecture 'linear' already: give the network anoth"
    ):
        network("linear")(Linear)


def test_what_cannot_be_made_with_its_defaults_is_refused(monkeypatch):
    monkeypatch.setattr("plasticity.agents.networks.base.NETWORKS", known := dict(NETWORKS))

    @dataclass(frozen=True, kw_only=True)
    class Sized(Linear):
        size: int

    for kind, message in ((Sized, "'size'"), (type("Vain", (Network,), {}), "abstract")):
        with pytest.raises(TypeError, match=message):
            network("vain")(kind)
    assert known == NETWORKS


# ---- initial values and the scale of the inputs -----------------------------------------------------

SCHEMES = ["torch", "kaiming", "orthogonal", "xavier"]


def made(architecture, seed=0, method=(), **settings):
    torch.manual_seed(seed)
    return NETWORKS[architecture](**settings).make((1, 16, 16), 10, method)


def same(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_default_is_what_the_layers_draw(architecture):
    torch.manual_seed(0)
    network = NETWORKS[architecture]()
    plain = network.build(network.spec((1, 16, 16), 10))
    state = torch.get_rng_state()
    assert same(made(architecture), plain)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_declared_distributions_are_those_of_the_parameters(architecture, scheme):
    settings = {"initialization": scheme, "output_gain": 0.25, "zero_biases": True}
    network = made(architecture, **settings)
    declared = network.initialization()
    assert sorted(declared) == sorted(name for name, _ in network.named_parameters())
    # Drawn again, from where the layers' own draws end, the parameters are the same.
    torch.manual_seed(0)
    kind = NETWORKS[architecture](**settings)
    kind.build(kind.spec((1, 16, 16), 10))
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    drawn = layers if scheme != "torch" else layers[-1:]
    for name, parameter in network.named_parameters():
        again = torch.full(parameter.shape, 9.0)
        if any(parameter is layer.weight for layer in drawn):
            declared[name].draw_(again, torch.default_generator)
        elif any(parameter is layer.bias for layer in layers):
            assert declared[name] == Constant(0.0)
            again.zero_()
        else:
            continue  # as its module drew it
        assert torch.equal(again, parameter), name
    assert same(network, made(architecture, **settings))
    assert not same(network, made(architecture, seed=1, **settings))


def test_the_schemes_by_hand():
    # 9 inputs of conv1, 16 · 4 · 4 of fc1, 64 of fc2; fan-outs 8 · 9, 64, 10
    def deviations(**settings):
        network = made("cnn", hidden=(64,), **settings)
        return [network.get_parameter(f"{n}.weight").std().item() for n in ("conv1", "fc1", "fc2")]

    expected = {
        "torch": (27**-0.5, 768**-0.5, 192**-0.5),
        "kaiming": ((2 / 9) ** 0.5, (2 / 256) ** 0.5, (1 / 64) ** 0.5),
        "xavier": ((2 / 81) ** 0.5, (2 / 320) ** 0.5, (2 / 74) ** 0.5),
        # the mean square of an entry of an orthogonal (rows, columns) is 1 / max(rows, columns)
        "orthogonal": ((2 / 9) ** 0.5, (2 / 256) ** 0.5, (1 / 64) ** 0.5),
    }
    for scheme, each in expected.items():
        found = deviations(initialization=scheme)
        assert found == pytest.approx(each, rel=0.15)
        halved = deviations(initialization=scheme, output_gain=0.5)
        assert halved[:2] == pytest.approx(found[:2])
        assert halved[2] == pytest.approx(each[2] / 2, rel=0.15)


def test_biases():
    network = made("mlp", zero_biases=True, output_gain=0.0)
    assert not network.fc1.bias.any()
    assert network.fc1.weight.any()
    assert not network.fc2.weight.any()
    scaled = made("mlp", output_gain=0.5)
    bound = 0.5 / 8  # 64 hidden units
    assert 0.5 * bound < scaled.fc2.bias.abs().max() <= bound
    assert torch.equal(scaled.fc1.bias, made("mlp").fc1.bias)
    kept = made("mlp", initialization="kaiming")
    assert torch.equal(kept.fc2.bias, made("mlp").fc2.bias)


def test_normalizations_keep_their_own_initial_values():
    network = made("mlp", method=(LayerNorm(),), initialization="orthogonal")
    assert network.initialization()["fc1.normalization.weight"] == Constant(1.0)
    assert (network.fc1.normalization.weight == 1).all()


@pytest.mark.parametrize("architecture", NETWORKS)
def test_scaled_inputs(architecture):
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, scaled, other = (
        made(architecture, seed, input_scale=scale).eval()
        for seed, scale in ((0, 1.0), (0, 2.0), (1, 2.0))
    )
    expected = plain(2 * images)
    assert torch.equal(scaled(images), expected)
    for copied in (copy.deepcopy(scaled), pickle.loads(pickle.dumps(scaled))):
        assert torch.equal(copied(images), expected)
    stacked = StackedNetworks([scaled, other])
    torch.testing.assert_close(stacked(images.expand(2, *images.shape))[0], expected)
    torch.testing.assert_close(stacked.network(0)(images), expected)
    with pytest.raises(ValueError, match="another architecture"):
        StackedNetworks([scaled, plain])


def test_a_module_that_draws_itself_takes_no_scheme(monkeypatch):
    monkeypatch.setattr("plasticity.agents.networks.base.NETWORKS", dict(NETWORKS))
    network("linear")(Linear)
    assert isinstance(Linear().make((4,), 2), nn.Linear)
    for settings in ({"initialization": "xavier"}, {"zero_biases": True}, {"output_gain": 0.5}):
        with pytest.raises(ValueError, match=r"'linear' decides .*derive its module from"):
            Linear(**settings).make((4,), 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"initialization": "kaimin"}, ValueError, "Did you mean 'kaiming'"),
        ({"output_gain": -1.0}, ValueError, "output_gain must be a finite number of at least 0"),
        ({"zero_biases": 1}, TypeError, "zero_biases must be True or False"),
        ({"input_scale": 0.0}, ValueError, "input_scale must be above 0"),
    ],
)
def test_wrong_settings(settings, error, message):
    with pytest.raises(error, match=message):
        MLP(**settings)
