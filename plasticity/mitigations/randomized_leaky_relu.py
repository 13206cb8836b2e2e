"""Leaky activations with random slopes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import nn

from plasticity.checks import require_bool, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.modules.activations import identity
from plasticity.modules.noise import RandomSlopes
from plasticity.network_spec import NetworkSpec
from plasticity.seeds import child_seed


@mitigation("randomized-leaky-relu")
@dataclass(frozen=True, kw_only=True)
class RandomizedLeakyReLU(Mitigation):
    """Randomized Smooth-Leaky activation (Lillo & Cheney, 2025) in place of the activation.

    It is that of `smooth-leaky-relu` with a slope that is drawn for each entry at each pass in training mode,
    uniformly from `lower` to `upper`; in evaluation mode the slope is the middle of the two. As in `dropout`,
    the noise is a function of a seed and of the number of passes. Without `smooth`, it is the randomized
    leaky ReLU of Xu et al. (2015), from whom the range is. An agent that acts in training mode acts with
    random slopes, too.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "network"
    claims: ClassVar[str] = "the activation"

    lower: float = 1 / 8
    """Smallest slope, at least 0."""

    upper: float = 1 / 3
    """Largest slope, at least `lower` and below 1."""

    smooth: bool = True
    """Whether the slope changes smoothly around 0, as by a sigmoid."""

    sharpness: float = 5 / 3
    """Factor of the sums within the sigmoid, above 0; without `smooth` it has no effect."""

    def __post_init__(self) -> None:
        require_number("lower", self.lower, minimum=0.0)
        require_number("upper", self.upper, minimum=self.lower, below=1.0)
        require_bool("smooth", self.smooth)
        if require_number("sharpness", self.sharpness, minimum=0.0) == 0:
            raise ValueError("sharpness must be above 0: with 0, the activation is linear.")

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Return the specification with sums times random factors, whatever its activation was."""
        gate = partial(_slopes, self.lower, self.upper, self.sharpness if self.smooth else None)
        layer = replace(spec.layer, activations=(identity,), gate=gate, keep_units=False)
        return replace(spec, layer=layer)

    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Seed the slopes of every layer; no weight changes."""
        for name, module in network.named_modules():
            if isinstance(module, RandomSlopes):
                module.seed.fill_(child_seed(seed, f"{self.name}/{name}"))


def _slopes(
    lower: float, upper: float, sharpness: float | None, shape: tuple[int, ...]
) -> nn.Module:
    return RandomSlopes(lower, upper, sharpness)
