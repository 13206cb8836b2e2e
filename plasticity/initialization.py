"""Distributions that initial weights are drawn from, so that a part of a network can be drawn again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Distribution(Protocol):
    """Distribution of the entries of a weight or bias."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor in place.

        Args:
            weights: A whole parameter, or some of its units. Shape: (units, …).
            generator: Generator on the tensor's device.
        """


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float = 0.0
    """Value of every entry."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor; nothing is drawn."""
        weights.fill_(self.value)


@dataclass(frozen=True)
class Uniform:
    """Uniform distribution around 0."""

    bound: float
    """Largest absolute value."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor."""
        weights.uniform_(-self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class Normal:
    """Normal distribution."""

    deviation: float
    """Standard deviation."""

    mean: float = 0.0
    """Mean."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor."""
        weights.normal_(self.mean, self.deviation, generator=generator)


@dataclass(frozen=True)
class Orthogonal:
    """Rows of a random orthogonal matrix (Saxe et al., 2014); of some rows, each has the same length."""

    gain: float = 1.0
    """Factor of the matrix."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor of at least two dimensions."""
        nn.init.orthogonal_(weights, self.gain, generator=generator)


def torch_default(fan_in: int) -> Uniform:
    """Return the distribution that torch's linear layers and convolutions draw weights and biases from.

    Args:
        fan_in: Inputs of one unit: input features, or input channels times the area of the kernel.
    """
    return Uniform(1 / math.sqrt(fan_in))


def initialization_of(model: nn.Module) -> dict[str, Distribution]:
    """Return the distribution of each parameter of a model, before its training, by name.

    A model may declare it in a method `initialization()`. A weight that it does not declare has a normal
    distribution of the spread that it has now; a vector is constant if all its entries are equal.
    """
    declare = getattr(model, "initialization", None)
    declared: dict[str, Distribution] = declare() if callable(declare) else {}
    return {
        name: declared[name] if name in declared else _measured(each.detach())
        for name, each in model.named_parameters()
    }


def _measured(weights: Tensor) -> Distribution:
    first = float(weights.flatten()[0])
    if bool((weights == first).all()):
        return Constant(first)
    deviation, mean = torch.std_mean(weights.float(), correction=0)
    return Normal(float(deviation), float(mean) if weights.dim() < 2 else 0.0)
