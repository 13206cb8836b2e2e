"""Multilayer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from plasticity.agents.networks.base import Network, network, require_widths
from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import dense_layers
from plasticity.network_spec import NetworkSpec


@network("mlp")
@dataclass(frozen=True, kw_only=True)
class MLP(Network):
    """Dense layers only.

    Raises:
        TypeError: if a width is not an integer.
        ValueError: if a width is under 1, there is none, or the activation is unknown.

    Examples:
        >>> from plasticity.network_spec import NetworkSpec
        >>> network = MLP(hidden=(100, 100)).build(NetworkSpec(input_shape=(1, 8, 8), output_size=10))
        >>> network(torch.zeros(32, 1, 8, 8)).shape
        torch.Size([32, 10])
    """

    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_widths("hidden", self.hidden, "(64,)")

    def build(self, spec: NetworkSpec) -> FeedforwardNetwork:
        """Return a new network for inputs of any shape, which it flattens."""
        dense = dense_layers(math.prod(spec.input_shape), self.hidden, spec.layer)
        output = nn.Linear(spec.layer.outputs(self.hidden[-1]), spec.output_size)
        return FeedforwardNetwork([], dense, output)
