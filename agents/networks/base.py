"""Base class of the settings of all networks, and the registry that `@network` adds them to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import nn

from plasticity.agents.networks.cloned_units import clone_units
from plasticity.agents.networks.layers import (
    ACTIVATIONS,
    Activation,
    InitializedNetwork,
    InputScale,
)
from plasticity.checks import require_bool, require_integer, require_known, require_number
from plasticity.initialization import Constant, Distribution, scheme_distribution, scheme_gain
from plasticity.mitigations import Mitigation, network_spec
from plasticity.network_spec import LayerSpec, NetworkSpec

INITIALIZATIONS = ("torch", "kaiming", "kaiming-uniform", "orthogonal", "xavier")
"""Schemes of initial weights by their name in a configuration."""

_Kind = TypeVar("_Kind", bound="type[Network]")


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """Settings of a network of one architecture, validated where they are made.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a setting is out of range or a name is unknown.

    Examples:
        >>> settings: Network = MLP(hidden=(16,), activation="tanh")
        >>> settings.make(input_shape=(4,), output_size=2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    architecture: str = field(init=False, default="")
    """Name of the architecture, given by `@network`."""

    activation: Activation = "relu"
    """Activation applied after every layer except the last, unless a mitigation replaces it."""

    def __post_init__(self) -> None:
        require_known("activation", self.activation, ACTIVATIONS)
        require_known("initialization", self.initialization, INITIALIZATIONS)
        require_number("output_gain", self.output_gain, minimum=0.0)
        require_bool("zero_biases", self.zero_biases)
        require_number("cloned_share", self.cloned_share, minimum=0.0, below=1.0)
        if require_number("input_scale", self.input_scale, minimum=0.0) == 0:
            raise ValueError("input_scale must be above 0: with 0, the network sees no inputs.")

    initialization: Literal["torch", "kaiming", "kaiming-uniform", "orthogonal", "xavier"] = "torch"
    """Scheme of the initial weights of linear layers and convolutions. torch: as torch draws them, uniform
    within 1 / sqrt(fan-in). kaiming: normal, with a variance of 2 / fan-in. kaiming-uniform: uniform, with
    the gain of the activation; for ReLU, of the same variance. orthogonal: with a gain of sqrt(2). xavier:
    uniform, with a variance of 2 / (fan-in + fan-out). The output layer has a gain of 1 before `output_gain`.
    Biases are drawn as by torch."""

    output_gain: float = 1.0
    """Factor of the initial weights and biases of the output layer, at least 0."""

    zero_biases: bool = False
    """Whether the biases of linear layers and convolutions are 0 at first."""

    input_scale: float = 1.0
    """Factor of the inputs, above 0."""

    cloned_share: float = 0.0
    """Share of the units of each hidden layer that begin as copies of others, at least 0 and below 1: a
    symmetric start, which gradient descent alone never leaves (after "Barriers for learning", Joudaki et al.,
    2025)."""

    def spec(self, input_shape: tuple[int, ...], output_size: int) -> NetworkSpec:
        """Return the specification of this network before any mitigation edits it.

        Args:
            input_shape: Shape of one input.
            output_size: Number of outputs.
        """
        layer = LayerSpec(activations=(ACTIVATIONS[self.activation],))
        return NetworkSpec(input_shape=input_shape, output_size=output_size, layer=layer)

    def make(
        self, input_shape: tuple[int, ...], output_size: int, method: Sequence[Mitigation] = ()
    ) -> nn.Module:
        """Return a new network with all these settings, drawn from torch's default generator.

        Args:
            input_shape: Shape of one input.
            output_size: Number of outputs.
            method: Mitigations, of which those that change networks change it.

        Raises:
            ValueError: if the network cannot be built, or its initial values cannot be chosen.
        """
        network = self.build(network_spec(method, self.spec(input_shape, output_size)))
        if chosen := self._distributions(network):
            if not isinstance(network, InitializedNetwork):
                raise ValueError(
                    f"The architecture {self.architecture!r} decides its initial values itself: leave out"
                    " initialization, output_gain and zero_biases, or derive its module from"
                    " plasticity.agents.networks.layers.InitializedNetwork."
                )
            network.draw(chosen, torch.default_generator)
        is_shape_only = any(each.is_meta for each in network.parameters())
        if self.cloned_share and not is_shape_only:
            clone_units(network, self.cloned_share, input_shape)
        if self.input_scale != 1:
            network.register_forward_pre_hook(InputScale(self.input_scale))
        return network

    def _distributions(self, network: nn.Module) -> dict[str, Distribution]:
        """Return the distributions of the parameters that these settings choose, by name: none by default."""
        layers = {
            name: each
            for name, each in network.named_modules()
            if isinstance(each, nn.Linear | nn.Conv2d)
        }
        found: dict[str, Distribution] = {}
        for name, layer in layers.items():
            is_output = name == list(layers)[-1]
            gain = (
                self.output_gain if is_output else scheme_gain(self.initialization, self.activation)
            )
            shape = tuple(layer.weight.shape)
            drawn = scheme_distribution(self.initialization, shape, gain)
            prefix = f"{name}." if name else ""
            if self.initialization != "torch" or gain != 1:
                found[f"{prefix}weight"] = drawn
            if layer.bias is None:
                continue
            if self.zero_biases:
                found[f"{prefix}bias"] = Constant(0.0)
            elif is_output and gain != 1:
                found[f"{prefix}bias"] = scheme_distribution("torch", shape, gain)
        return found

    @abstractmethod
    def build(self, spec: NetworkSpec) -> nn.Module:
        """Return the network of this architecture as its layers draw it; `make` applies the other settings.

        The network maps inputs, (batch, *input_shape), to outputs, (batch, output_size). It has an attribute
        `hidden_layers`, the names of the modules whose outputs are the features, from input to output. It is
        an `InitializedNetwork`, whose last linear layer or convolution is that of the outputs; one of your
        own, whose initial values are not chosen, only needs a method `initialization`, which returns the
        `Distribution` of every parameter's initial values by the parameter's name.

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

    Examples:
        >>> from plasticity.agents.networks import NETWORKS, Network, network
        >>> @network("linear")
        ... class Linear(Network):
        ...     def build(self, spec):
        ...         return nn.Sequential(nn.Flatten(), nn.LazyLinear(spec.output_size))
        >>> NETWORKS.pop("linear").architecture  # taken off again, for this example only
        'linear'
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
