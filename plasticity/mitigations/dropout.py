"""Dropout of hidden units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import nn

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.modules.noise import SeededDropout
from plasticity.network_spec import NetworkSpec
from plasticity.seeds import child_seed


@mitigation("dropout")
@dataclass(frozen=True, kw_only=True)
class Dropout(Mitigation):
    """Dropout after the activations of every hidden layer (Srivastava et al., 2014).

    In training, each output is 0 with the given probability and otherwise divided by that of staying, so that
    its mean is the output without dropout; in evaluation mode nothing happens. An entry of a convolution's
    map is dropped by itself. Mitigations that read units see the outputs as the next layer does, with zeros.
    An agent that acts in training mode acts with dropout, too.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the dropout"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"probability": (0.05, 0.1, 0.25, 0.5)}

    probability: float = 0.1
    """Probability that an output is dropped, below 1."""

    def __post_init__(self) -> None:
        require_number("probability", self.probability, minimum=0.0, below=1.0)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with a dropout after the activations."""
        made = partial(SeededDropout, self.probability)
        return replace(spec, layer=replace(spec.layer, noise=made))

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Seed every dropout of the network; no weight changes."""
        for name, module in network.named_modules():
            if isinstance(module, SeededDropout):
                module.seed.fill_(child_seed(seed, f"dropout/{name}"))
