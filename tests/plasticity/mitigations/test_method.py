import re
from dataclasses import dataclass, replace

import pytest
import torch

from plasticity.mitigations import (
    L2Init,
    Mitigation,
    Shift,
    Syre,
    WeightDecay,
    method_name,
    mitigation_names,
    network_spec,
    regularizer_settings,
    require_compatible,
)
from plasticity.network_spec import LayerSpec, NetworkSpec
from plasticity.optim.settings import RegularizerSettings

SETTINGS = {
    "none": ((), {}),
    "weight-decay": (
        (WeightDecay(strength=0.1, decoupled=True),),
        {"regularizer": "weight-decay", "strength": 0.1, "decoupled": True},
    ),
    "l2-init": ((L2Init(strength=0.2),), {"regularizer": "l2-init", "strength": 0.2}),
    "syre": (
        (Syre(strength=0.3, sigma=0.5, anisotropy=0.1),),
        {"regularizer": "syre", "strength": 0.3, "sigma": 0.5, "anisotropy": 0.1},
    ),
    "shift": ((Shift(sigma=0.5),), {}),
    "shift+weight-decay": (
        (Shift(sigma=0.5), WeightDecay(strength=0.1)),
        {"regularizer": "weight-decay", "strength": 0.1},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_optimizer_gets_the_settings_of_the_method(name):
    method, expected = SETTINGS[name]
    assert regularizer_settings(method, 7) == RegularizerSettings(anchor_seed=7, **expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_names_of_methods_and_back(name):
    method, _ = SETTINGS[name]
    assert method_name(method) == name
    assert mitigation_names(name) == tuple(each.name for each in method)
    require_compatible(method)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("sire", ValueError, "Unknown method 'sire'. Did you mean 'syre'?"),
        ("syre+", ValueError, "write first+second"),
        ("", ValueError, "write first+second"),
        ("syre+none", ValueError, "'none' stands alone: write 'syre+none' without it."),
        (
            "syre+weight-decay",
            ValueError,
            "syre and weight-decay both set the decay: leave one out.",
        ),
        ("syre+syre", ValueError, "syre and syre both set the decay: leave one out."),
        (3, TypeError, "A method must be a name, not 3."),
    ],
)
def test_wrong_names_are_refused(name, error, message):
    with pytest.raises(error, match=re.escape(message)):
        mitigation_names(name)


def test_wrong_mitigations_are_refused():
    with pytest.raises(ValueError, match="syre and l2-init both set the decay"):
        require_compatible((Syre(), L2Init()))
    with pytest.raises(TypeError, match="must be a tuple of mitigations, not of 's'"):
        require_compatible("syre")


@dataclass(frozen=True, kw_only=True)
class _Append(Mitigation):
    """Mitigation that adds an activation."""

    function: object

    def network(self, spec):
        activations = (*spec.layer.activations, self.function)
        return replace(spec, layer=replace(spec.layer, activations=activations))


def test_networks_are_specified_in_the_order_written():
    spec = NetworkSpec(input_shape=(2,), output_size=1, layer=LayerSpec(activations=(abs,)))
    sine, cosine = _Append(function=torch.sin), _Append(function=torch.cos)
    found = network_spec([sine, Syre(), cosine], spec)
    assert found.layer.activations == (abs, torch.sin, torch.cos)
    assert network_spec([Syre(), Shift()], spec) is spec


@pytest.mark.parametrize("method", ["+syre", "syre+", "syre++shift", ""])
def test_a_missing_name_is_refused(method):
    with pytest.raises(ValueError, match="write first\\+second"):
        mitigation_names(method)


def test_mitigations_without_a_claim_go_together(monkeypatch):
    monkeypatch.setattr(Shift, "claims", "")
    monkeypatch.setattr(Syre, "claims", "")
    assert mitigation_names("syre+shift") == ("syre", "shift")


def test_a_mitigation_can_claim_several_things():
    @dataclass(frozen=True, kw_only=True)
    class Both(Mitigation):
        name = "both"
        claims = ("the one", "the other")

    @dataclass(frozen=True, kw_only=True)
    class Other(Mitigation):
        name = "rival"
        claims = "the other"

    require_compatible((Both(), WeightDecay()))
    with pytest.raises(ValueError, match="both and rival both set the other: leave one out"):
        require_compatible((Both(), Other()))
