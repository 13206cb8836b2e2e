"""TRAC: a distance from the initial weights that is tuned without a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.precision import wide_dtype

DISCOUNTS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
"""Discounts of the tuners, of which each remembers another stretch of the past."""

ERFI_OF_HALF = 0.9534382692512609
"""erfi(1 / sqrt(2)), by which the published scale is normalized."""

LARGEST = 9.0
"""Largest argument of `erfi`, whose value is 3e34."""

REFERENCE, DISPLACEMENT = "reference", "displacement"
"""Names of the tensors of a parameter in the state, before its name."""


@mitigation("trac")
@dataclass(frozen=True, kw_only=True)
class TRAC(Mitigation):
    """Weights at a tuned share of the distance that the optimizer has gone (Muppidi et al., 2024).

    See "Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning". The steps of the
    optimizer, whichever it is, add up to a displacement D, and the weights are

        θ = θ₀ + S D,    S = max(0, sum over discounts β of (start / erfi(1 / √2)) erfi(σ / (√(2 v) + ε))),

    with v ← β² v + h², σ ← β σ - h, at first `start`, and h the inner product of D, before this step is
    added, with the gradient, both over all weights. S is about 10 times `start` at first, so that the network
    hardly moves until gradients have pointed the same way for a while.

    What is decided here:

    - D is kept. The published code recovers it as (θ - θ₀) / (S + ε), which decays it by ε / (S + ε) in each
      step, a tenth at first; and in single precision, where S D is lost in θ at first, it may never move.
    - A weight without a gradient in this step stays where it is.
    - A change by something else, between two steps, such as a reset or a projection, moves θ₀ by as much. It
      acts before the other mitigations do, as a part of the step; weights that these reset have a D of 0.
    - The arguments of erfi are limited to 9, where S is beyond any use, so that it cannot be undefined.
    - The decay of the optimizer is part of its step, and of D; the gradient in h is that of the loss alone.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "optimizer"
    claims: ClassVar[str] = "the size of steps"
    comes_first: ClassVar[bool] = True
    memories: ClassVar[tuple[str, ...]] = (DISPLACEMENT,)

    start: float = 1e-8
    """Scale of S, and the value that each sum begins at, above 0."""

    epsilon: float = 1e-8
    """Number that is added to the denominator, above 0."""

    def __post_init__(self) -> None:
        for name in ("start", "epsilon"):
            if require_number(name, getattr(self, name), minimum=0.0) == 0:
                raise ValueError(f"{name} must be above 0, not 0: nothing would ever move.")

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return weights, displacements of 0, and tuners. Shape of each: (..., *shape), (...), (..., 6)."""
        state = {}
        dtype = wide_dtype(next(iter(context.parameters.values())))
        for name, each in context.parameters.items():
            precise = each.detach().to(wide_dtype(each), copy=True)
            state[f"{REFERENCE}/{name}"] = precise
            state[f"{DISPLACEMENT}/{name}"] = torch.zeros_like(precise)
        state["scale"] = torch.zeros(context.lead, dtype=dtype, device=each.device)
        discounts = torch.tensor(DISCOUNTS, dtype=dtype, device=each.device)
        # here, since a captured step cannot copy numbers from the host
        state["discount"] = discounts.expand(*context.lead, -1).clone()
        state["variance"] = torch.zeros_like(state["discount"])
        state["sum"] = state["variance"] + context.per_run(self.start, state["variance"])
        return state

    def before_step(self, context: Context) -> None:
        """Follow changes that others have made, tune S, and keep the weights."""
        gradients, state = context.gradients, context.state
        products = [torch.zeros_like(state["scale"])]
        for name, weight in context.moved.items():
            placed = _placed(context, name).to(weight.dtype)
            state[f"{REFERENCE}/{name}"].add_(weight - placed)  # exactly 0 unless it was changed
            context.scratch(name).copy_(weight)
            product = state[f"{DISPLACEMENT}/{name}"] * gradients[name]
            products.append(product.reshape(*context.lead, -1).sum(-1).to(products[0].dtype))
        state["scale"].copy_(self._scale(context, torch.stack(products).sum(0)))

    def _scale(self, context: Context, product: Tensor) -> Tensor:
        """Update the tuners, and return S. Shape of `product` and of S: (...)."""
        discount, variance, total = (context.state[n] for n in ("discount", "variance", "sum"))
        product = product.unsqueeze(-1)
        variance.mul_(discount.square()).add_(product.square())
        total.mul_(discount).sub_(product)
        spread = (2 * variance).sqrt() + context.per_run(self.epsilon, variance)
        parts = erfi((total / spread).clamp(-LARGEST, LARGEST)).sum(-1)
        return (context.per_run(self.start, parts) / ERFI_OF_HALF * parts).clamp(min=0)

    def after_step(self, context: Context) -> None:
        """Add the step to the displacement, and place the weights."""
        for name, weight in context.moved.items():
            context.state[f"{DISPLACEMENT}/{name}"].add_(weight - context.scratch(name))
            weight.copy_(_placed(context, name))


def erfi(numbers: Tensor) -> Tensor:
    """Return the imaginary error function, to 40 units in the last place, of numbers from -9 to 9.

    It is 2 / sqrt(pi) times the integral of exp(t²) from 0, of which torch has no function. By Rybicki's
    series for Dawson's integral (Computers in Physics 3, 1989), the sum over odd n of

        2 / pi * sign(x) * exp(n d (2 |x| - n d)) * (1 - exp(-4 |x| n d)) / n,

    whose terms are all positive; a spacing d of 1/4 leaves a relative error of 1e-17.

    Shape: any, which stays.
    """
    spacing = 0.25
    # exp(81 - (n d - |x|)²) is below 1e-16 of the largest term once n d is above |x| + 6
    orders = torch.arange(1, int((LARGEST + 7) / spacing), 2, device=numbers.device)
    places = orders.to(numbers.dtype) * spacing
    sizes = numbers.abs().unsqueeze(-1)
    terms = (places * (2 * sizes - places)).exp() * -torch.expm1(-4 * sizes * places) / orders
    return numbers.sign() * terms.sum(-1) * (2 / math.pi)


def _placed(context: Context, name: str) -> Tensor:
    """Return the reference and S times the displacement, by the same operations at every call."""
    displacement = context.state[f"{DISPLACEMENT}/{name}"]
    scale = context.per_run(context.state["scale"], displacement)
    return displacement * scale + context.state[f"{REFERENCE}/{name}"]
