"""Asymmetric networks by their activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.modules.activations import identity
from plasticity.network_spec import NetworkSpec
from plasticity.seeds import child_seed


@mitigation("sigma-asymmetric")
@dataclass(frozen=True, kw_only=True)
class SigmaAsymmetric(Mitigation):
    """Activation ``x * sigmoid(C x)`` with a fixed random matrix C (Lim et al., 2024, sigma-asymmetry).

    It takes the place of every activation. C mixes the units of a layer, so that no two of them can be
    exchanged; of a convolution, it mixes the channels at each position. Its entries are a persistent buffer,
    drawn from the seed of the anchors: networks with the same anchors have the same.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"

    deviation: float = 1.0
    """Standard deviation of C's entries, at least 0; of a convolution, it is divided by sqrt(channels). Both
    as published: ``C x`` of a dense layer grows with the root of the width."""

    def __post_init__(self) -> None:
        require_number("deviation", self.deviation, minimum=0.0)

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with gated sums, whatever its activation was."""
        gate = partial(RandomGate, deviation=self.deviation)
        layer = replace(spec.layer, activations=(identity,), keep_units=False, gate=gate)
        return replace(spec, layer=layer)

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Draw all matrices C.

        Raises:
            ValueError: if the network was built without them.
        """
        gates = {path: each for path, each in network.named_modules() if type(each) is RandomGate}
        if not gates:
            raise ValueError(
                f"{type(network).__name__} was built without {self.name}: build it from the specification"
                " that the method's mitigations edit (plasticity.mitigations.network_spec)."
            )
        for path, gate in gates.items():
            gate.draw(torch.Generator().manual_seed(child_seed(seed, f"{self.name}/{path}")))


class RandomGate(nn.Module):
    """Factors ``sigmoid(C x)`` of a layer's sums x, with a fixed random C.

    Args:
        shape: Shape of one example's sums: (units,) or (channels, height, width).
        deviation: Standard deviation of C's entries, which is divided by sqrt(channels) for maps.
    """

    matrix: Tensor
    """The matrix C; NaN until it is drawn. Shape: (units, units), and two axes of 1 more for maps."""

    def __init__(self, shape: Sequence[int], deviation: float) -> None:
        super().__init__()
        units, *positions = shape
        self._deviation = deviation / math.sqrt(units) if positions else deviation
        kernel = [1] * len(positions)
        self.register_buffer("matrix", torch.full((units, units, *kernel), torch.nan))

    def draw(self, generator: torch.Generator) -> None:
        """Draw C.

        Args:
            generator: CPU generator, so that C is the same on every device.
        """
        drawn = torch.randn(self.matrix.shape, generator=generator)
        self.matrix.copy_(self._deviation * drawn)

    def forward(self, sums: Tensor) -> Tensor:
        """Return the factors. Shape: (..., units) or (..., channels, height, width), as the sums'."""
        mix = functional.linear if self.matrix.dim() == 2 else functional.conv2d
        return torch.sigmoid(mix(sums, self.matrix))

    def extra_repr(self) -> str:
        """Return the spread of C."""
        return f"deviation={self._deviation:g}"
