from dataclasses import dataclass
from typing import ClassVar

import pytest

from plasticity.mitigations import MITIGATIONS, Mitigation, mitigation
from plasticity.optim.settings import REGULARIZERS, RegularizerSettings


def test_every_mitigation_is_documented_and_has_defaults():
    for name, kind in MITIGATIONS.items():
        made = kind()
        assert kind.name == name
        assert kind.claims
        assert kind.__doc__.strip()
        assert all(hasattr(made, key) and values for key, values in kind.search.items())


def test_every_decay_of_the_optimizer_is_a_mitigation():
    decays = {name for name, kind in MITIGATIONS.items() if kind.claims == "the decay"}
    assert decays == set(REGULARIZERS) - {"none"}


def test_a_registered_mitigation_has_its_name(monkeypatch):
    monkeypatch.setattr("plasticity.mitigations.base.MITIGATIONS", {})

    @mitigation("my-own-2")
    @dataclass(frozen=True, kw_only=True)
    class Own(Mitigation):
        claims: ClassVar[str] = "nothing"

    assert Own.name == "my-own-2"
    settings = RegularizerSettings(strength=0.5)
    assert Own().optimizer(settings) is settings  # a hook that is not overridden changes nothing


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("syre", "There is a method 'syre' already"),
        ("none", "There is a method 'none' already"),
        ("Syre-2", "lower-case letters, digits and hyphens only: 'Syre-2'"),
        ("a+b", "lower-case letters, digits and hyphens only"),
        ("a/b", "lower-case letters, digits and hyphens only"),
        ("", "lower-case letters, digits and hyphens only"),
    ],
)
def test_names_that_options_and_folders_cannot_hold_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        mitigation(name)(type("Own", (Mitigation,), {}))
    assert "Own" not in {kind.__name__ for kind in MITIGATIONS.values()}
