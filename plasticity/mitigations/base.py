"""Base class of all mitigations, and the registry that `@mitigation` adds them to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from plasticity.network_spec import NetworkSpec
from plasticity.optim.settings import RegularizerSettings

PLAIN = "none"
"""Name of the method without a mitigation: the plain optimizer."""

_Kind = TypeVar("_Kind", bound="type[Mitigation]")


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """Settings of one way to keep a network plastic, validated where they are made.

    The hooks below say what a mitigation does; each does nothing unless a subclass overrides it.
    """

    name: ClassVar[str]
    """Name in `--methods` and in option names, given by `@mitigation`."""

    claims: ClassVar[str]
    """Part of the training that the mitigation decides. Two that claim the same cannot be combined."""

    search: ClassVar[Mapping[str, tuple[float, ...]]] = {}
    """Values that a sweep without a grid tries, by field."""

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification that the network is to be built from.

        Args:
            spec: Specification as the mitigations before this one left it.
        """
        return spec

    def optimizer(self, settings: RegularizerSettings) -> RegularizerSettings:
        """Return the settings with which the optimizer is to regularize the network.

        Args:
            settings: Settings as the mitigations before this one left them, with the run's `anchor_seed`.
        """
        return settings


MITIGATIONS: dict[str, type[Mitigation]] = {}
"""Classes of mitigations, by name."""


def mitigation(name: str) -> Callable[[_Kind], _Kind]:
    """Register a mitigation under a name.

    Raises:
        ValueError: if the name is taken, or contains a character that options or folders cannot hold.
    """

    def register(kind: _Kind) -> _Kind:
        if name in MITIGATIONS or name == PLAIN:
            raise ValueError(
                f"There is a method {name!r} already: give the mitigation another name."
            )
        if not name.replace("-", "").isalnum() or name != name.lower():
            raise ValueError(
                f"A mitigation's name has lower-case letters, digits and hyphens only: {name!r}."
            )
        kind.name = name
        MITIGATIONS[name] = kind
        return kind

    return register


@dataclass(frozen=True, kw_only=True)
class Decay(Mitigation):
    """Decay of all weights toward an anchor.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    claims: ClassVar[str] = "the decay"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}

    strength: float = 1e-3
    """Strength of the decay, as torch's weight_decay."""

    decoupled: bool | None = None
    """Decay apart from the gradient, as AdamW. None: as the optimizer's own weight decay."""

    def __post_init__(self) -> None:
        self.optimizer(RegularizerSettings())  # which checks the values

    def optimizer(self, settings: RegularizerSettings) -> RegularizerSettings:
        """Return the settings of the decay."""
        return replace(
            settings, regularizer=self.name, strength=self.strength, decoupled=self.decoupled
        )
