"""Distributions that initial weights are drawn from, so that a part of a network can be drawn again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from plasticity.checks import require_known


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
    """Rows of a random orthogonal matrix (Saxe et al., 2014).

    A matrix with more rows than columns has orthonormal columns instead, and shorter rows.
    """

    gain: float = 1.0
    """Factor of the matrix."""

    rows: int | None = None
    """Rows of the whole matrix, so that some of them, drawn alone, have the length that they have in there.
    None: those that are drawn."""

    def draw_(self, weights: Tensor, generator: torch.Generator) -> None:
        """Fill a tensor of at least two dimensions."""
        drawn, columns = len(weights), math.prod(weights.shape[1:])
        whole = self.rows or drawn
        # Mean square of a row's length: the columns, of length 1, are shared by all rows.
        share = min(1.0, columns / whole) / min(1.0, columns / drawn)
        nn.init.orthogonal_(weights, self.gain * math.sqrt(share), generator=generator)


def torch_default(fan_in: int) -> Uniform:
    """Return the distribution that torch's linear layers and convolutions draw weights and biases from.

    Args:
        fan_in: Inputs of one unit: input features, or input channels times the area of the kernel.
    """
    return Uniform(1 / math.sqrt(fan_in))


Scheme = Literal["torch", "lecun", "kaiming", "kaiming-uniform", "xavier", "orthogonal"]
"""Names of schemes of initial weights."""

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""Schemes of initial weights by their name in a configuration."""


ACTIVATION_GAINS = {
    "tanh": 5 / 3,
    "leaky-relu": math.sqrt(2 / (1 + 0.01**2)),
    "leaky-relu-0.1": math.sqrt(2 / (1 + 0.1**2)),
}
"""Gains of `kaiming-uniform` by the activation that follows, where it is not the square root of 2."""


def scheme_gain(scheme: Scheme, activation: str = "relu") -> float:
    """Return the gain of hidden layers.

    It is the square root of 2, that of rectified sums, for `kaiming` and `orthogonal`; for `kaiming-uniform`,
    that of the activation (`torch.nn.init.calculate_gain`; for those that it does not know, the square root
    of 2). The other schemes do not know what follows a layer.
    """
    if scheme == "kaiming-uniform":
        return ACTIVATION_GAINS.get(activation, math.sqrt(2))
    return math.sqrt(2) if scheme in ("kaiming", "orthogonal") else 1.0


def scheme_distribution(
    scheme: Scheme, shape: tuple[int, ...], gain: float = 1.0
) -> Uniform | Normal | Orthogonal:
    """Return the distribution that a scheme draws the weights of a layer from.

    | scheme | distribution | source |
    |---|---|---|
    | `torch` | uniform, variance 1 / (3 fan-in) | torch's linear layers and convolutions |
    | `lecun` | uniform, variance 1 / fan-in | LeCun et al., 1998 |
    | `kaiming` | normal, variance 1 / fan-in | He et al., 2015, with a gain of sqrt(2) |
    | `kaiming-uniform` | uniform, variance 1 / fan-in | the same, with the gain of the activation |
    | `xavier` | uniform, variance 2 / (fan-in + fan-out) | Glorot & Bengio, 2010 |
    | `orthogonal` | rows or columns of an orthogonal matrix | Saxe et al., 2014 |

    Args:
        scheme: One of `SCHEMES`.
        shape: Shape of the weights, (out, in, *kernel).
        gain: Factor of the weights.

    Raises:
        ValueError: if the scheme is unknown.
    """
    require_known("scheme", scheme, SCHEMES)
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    if scheme == "kaiming":
        return Normal(gain / math.sqrt(fan_in))
    if scheme == "orthogonal":
        return Orthogonal(gain, shape[0])
    if scheme == "torch":
        return Uniform(gain * torch_default(fan_in).bound)
    is_xavier = scheme == "xavier"
    return Uniform(gain * math.sqrt(6 / (fan_in + fan_out) if is_xavier else 3 / fan_in))


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
    first = float(weights.flatten()[0]) if weights.numel() else 0.0
    if bool((weights == first).all()):
        return Constant(first)
    deviation, mean = torch.std_mean(weights.float(), correction=0)
    return Normal(float(deviation), float(mean) if weights.dim() < 2 else 0.0)
