"""Weight clipping: weights kept within a range that their fan-in gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer, require_number
from plasticity.initialization import Distribution, Uniform, torch_default
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context

ROUNDING = 1e-5
"""Share by which an initial weight may exceed its limit, as the limit is rounded."""


@mitigation("weight-clipping")
@dataclass(frozen=True, kw_only=True)
class WeightClipping(Mitigation):
    """Weights and biases clipped to a range after every step (Elsayed et al., 2024).

    See "Weight Clipping for Deep Continual and Reinforcement Learning". Each entry stays within kappa * s of
    0, where s is 1 / sqrt(fan-in), the bound of torch's initial weights, or that of the parameter's own
    initial distribution if it is uniform and wider. With another distribution, a kappa that would clip
    initial weights is refused. A bias has the fan-in of its layer. Normalizations are not clipped, whose
    factors of 1 the published code would crush, nor are embeddings, nor weights while they are frozen.
    Moments stay, and may go on to push against the limit.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "projection"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "the projection"
    reads_roles: ClassVar[bool] = True
    search: ClassVar[dict[str, tuple[float, ...]]] = {"kappa": (1.0, 2.0, 3.0, 4.0, 5.0)}

    every: int = 1
    """Optimizer steps between two clippings."""

    kappa: float = 1.0
    """Limit of a weight's size, as a multiple of s; above 0."""

    head: bool = True
    """Whether the output layer is clipped, too."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        if require_number("kappa", self.kappa, minimum=0.0) == 0:
            raise ValueError("kappa must be above 0: 0. All weights would be 0.")
        require_bool("head", self.head)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the bound s of each parameter, by name. Shape of each: (...).

        Raises:
            ValueError: if initial weights would be clipped.
        """
        state, shares, trained = {}, [], context.trained
        for name, role in context.roles.items():
            if role.kind not in ("weight", "bias") or (role.is_output and not self.head):
                continue
            weight = context.parameters[name]
            given = context.initialization[name]
            each = given if isinstance(given, tuple) else (given,) * len(context.generators)
            bounds = weight.new_tensor([_bound(one, role.fan_in) for one in each])
            state[name] = bounds.view(context.lead)
            if name in trained:
                largest = weight.detach().abs().flatten(len(context.lead)).amax(-1)
                shares.append(largest / state[name])
        if not shares:
            return state
        largest = torch.stack(shares).amax(0)
        if (largest > context.per_run(self.kappa, largest) * (1 + ROUNDING)).any():
            raise ValueError(
                "weight-clipping would clip weights before the first step, which reach up to"
                f" {float(largest.max()):.4g} times s: give a kappa of at least that."
            )
        return state

    def after_step(self, context: Context) -> None:
        """Clip the weights."""
        for name in context.roles:  # of the weights that are trained now
            if name not in context.state:
                continue
            bound, weight = context.state[name], context.parameters[name].detach()
            limit = torch.as_tensor(context.per_run(bound, weight))
            limit = limit * context.per_run(self.kappa, weight)
            weight.clamp_(-limit, limit)


def _bound(distribution: Distribution, fan_in: int) -> float:
    usual = torch_default(fan_in).bound
    # not a smaller one: an output layer that begins near 0 would have to stay there
    return max(usual, distribution.bound) if isinstance(distribution, Uniform) else usual
