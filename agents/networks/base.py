"""Base class of the settings of all networks, and the registry that `@network` adds them to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from plasticity.agents.networks.layers import ACTIVATIONS, Activation
from plasticity.checks import require_integer, require_known
from plasticity.network_spec import LayerSpec, NetworkSpec

_Kind = TypeVar("_Kind", bound="type[Network]")


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """Settings of a network of one architecture, validated where they are made.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range or a name is unknown.
    """

    architecture: str = field(init=False, default="")
    """Name of the architecture, given by `@network`."""

    activation: Activation = "relu"
    """Activation applied after every layer except the last, unless a mitigation replaces it."""

    def __post_init__(self) -> None:
        require_known("activation", self.activation, ACTIVATIONS)

    def spec(self, input_shape: tuple[int, ...], output_size: int) -> NetworkSpec:
        """Return the specification of this network before any mitigation edits it.

        Args:
            input_shape: Shape of one input.
            output_size: Number of outputs.
        """
        layer = LayerSpec(activations=(ACTIVATIONS[self.activation],))
        return NetworkSpec(input_shape=input_shape, output_size=output_size, layer=layer)

    @abstractmethod
    def build(self, spec: NetworkSpec) -> nn.Module:
        """Return a new network, its weights drawn from torch's default generator.

        The network maps inputs, (batch, *input_shape), to outputs, (batch, output_size). It has an attribute
        `hidden_layers`, the names of the modules whose outputs are the features, from input to output, and
        a method `initialization`, which returns the `Distribution` of every parameter's initial values by
        the parameter's name.

        Args:
            spec: Specification, edited by the mitigations of the run.

        Raises:
            ValueError: if the network cannot be built for it.
        """


NETWORKS: dict[str, type[Network]] = {}
"""Classes of network settings, by the name of the architecture."""


def network(architecture: str) -> Callable[[_Kind], _Kind]:
    """Register the settings of an architecture under its name.

    Raises:
        TypeError: if a setting has no default, or there is no method `build`.
        ValueError: if the name is taken.
    """

    def register(kind: _Kind) -> _Kind:
        if architecture in NETWORKS:
            raise ValueError(
                f"There is an architecture {architecture!r} already: give the network another name."
            )
        kind.architecture = architecture
        kind()  # --architecture begins with the defaults
        NETWORKS[architecture] = kind
        return kind

    return register


def require_widths(name: str, widths: object, example: str) -> None:
    """Raise an error unless a setting is a tuple of at least one width of at least 1.

    Args:
        name: Name of the setting.
        widths: Its value.
        example: A value for the message.
    """
    if not isinstance(widths, tuple):
        raise TypeError(f"{name} must be a tuple of widths, not {widths!r}.")
    if not widths:
        raise ValueError(f"{name} needs at least one width: {name}={example}.")
    for width in widths:
        require_integer(f"a width of {name}", width, minimum=1)
