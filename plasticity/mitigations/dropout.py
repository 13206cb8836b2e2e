"""Dropout of hidden units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.network_spec import NetworkSpec
from plasticity.seeds import child_seed

BITS = 32
"""Bits of a random number."""

MASK = 2**BITS - 1


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


class SeededDropout(nn.Module):
    """Inverted dropout whose noise is a function of a seed and of the number of passes so far.

    Both are buffers. A run that continues from them draws the same noise, on any device, and stacked networks
    draw what each would draw alone, which torch's generators cannot do.

    Args:
        probability: Probability that an entry is dropped, below 1.
        seed: Seed, 0 to 2**63 - 1.
    """

    seed: Tensor
    passes: Tensor

    def __init__(self, probability: float, seed: int = 0) -> None:
        super().__init__()
        self.probability = probability
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, features: Tensor) -> Tensor:
        """Return the features with some entries dropped, or as they are in evaluation mode.

        Shape: any, which stays.
        """
        if not self.training:
            return features
        entries = torch.arange(features.numel(), device=features.device).view(features.shape)
        kept = random_bits(self.seed, self.passes, entries) >= self.probability * 2**BITS
        self.passes += 1
        return torch.where(kept, features / (1 - self.probability), 0)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"probability={self.probability}"


def random_bits(seed: Tensor, passes: Tensor, entries: Tensor) -> Tensor:
    """Return a random number of 32 bits for each entry, a function of the arguments alone.

    Args:
        seed: Seed, at least 0. Int64. Shape: ().
        passes: Number of earlier passes. Int64. Shape: ().
        entries: Indices of entries. Int64. Shape: any.

    Returns:
        Int64, 0 to 2**32 - 1. Shape: that of the entries.
    """
    key = _mixed(_mixed(_mixed(seed >> BITS) ^ seed) ^ passes)
    return _mixed(_mixed(entries ^ key) + _mixed(key ^ MASK))


def _mixed(numbers: Tensor) -> Tensor:
    """Mix the lower 32 bits: a bijection of low bias, by C. Wellons ("hash-prospector", lowbias32)."""
    numbers = numbers & MASK
    # A product may overflow 64 bits, but its lower 32 are right.
    numbers = ((numbers ^ (numbers >> 16)) * 0x7FEB352D) & MASK
    numbers = ((numbers ^ (numbers >> 15)) * 0x846CA68B) & MASK
    return numbers ^ (numbers >> 16)
