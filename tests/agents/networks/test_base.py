"""Registration of architectures."""

from dataclasses import dataclass, replace

import pytest
from torch import nn

from plasticity.agents.networks import CNN, MLP, NETWORKS, Network, network


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
