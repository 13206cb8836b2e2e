"""Hare and tortoise: a running average of the weights, which they are set back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.kept_parameters import copies
from plasticity.precision import wide_dtype


@mitigation("hare-tortoise")
@dataclass(frozen=True, kw_only=True)
class HareTortoise(Mitigation):
    """Slow copy of the weights, which the trained ones are set back to now and then (Lee et al., 2024).

    See "Slow and Steady Wins the Race: Maintaining Plasticity with Hare and Tortoise Networks". The hare is
    the network that is trained. After every step, the tortoise, a copy at first, becomes
    `mu * tortoise + (1 - mu) * hare`; after every `copy_every` steps the hare becomes the tortoise. Both have
    all parameters, of which frozen ones stay. The tortoise of weights in half precision is in single
    precision, where its small steps are not lost.

    What is decided here, as the authors' code was not at hand: the network is measured and evaluated with the
    weights of the tortoise, while an agent acts with the hare's. Running statistics of a batch normalization
    are the hare's, before and after: they are averages already. The optimizer's state begins anew with the
    copy, as its moments are those of the hare's old place.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    reads_gradients: ClassVar[bool] = False
    claims: ClassVar[str] = "the weights of an evaluation"
    search: ClassVar[dict[str, tuple[float, ...]]] = {
        "mu": (0.9, 0.99, 0.999),
        "copy_every": (1000, 4000),
    }

    mu: float = 0.999
    """Share of the tortoise that a step leaves, below 1. It lags by about 1 / (1 - mu) steps, which should be
    well below those of a task, and below `copy_every`."""

    copy_every: int = 4000
    """Optimizer steps after which the hare becomes the tortoise, each time."""

    restart_optimizer: bool = True
    """Whether the optimizer's state begins anew then."""

    def __post_init__(self) -> None:
        require_number("mu", self.mu, minimum=0.0, below=1.0)
        require_integer("copy_every", self.copy_every, minimum=1)
        require_bool("restart_optimizer", self.restart_optimizer)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the tortoise. Shape of each: (..., *shape)."""
        every = copies(context.parameters)
        return {name: each.to(wide_dtype(each)) for name, each in every.items()}

    def after_step(self, context: Context) -> None:
        """Move the tortoise, and now and then the hare to it."""
        slow = [*context.state.values()]
        fast = [
            context.parameters[name].detach().to(own.dtype) for name, own in context.state.items()
        ]
        share: float | Tensor = self.mu  # a tensor, if stacked networks differ
        if isinstance(share, Tensor):
            for own, each in zip(slow, fast, strict=True):
                own.lerp_(each, 1 - context.per_run(share, own))
        else:
            torch._foreach_lerp_(slow, fast, 1 - share)
        if context.step % self.copy_every == 0:
            for name, weight in context.trained.items():
                weight.copy_(context.state[name])
            if self.restart_optimizer:
                context.restart_optimizer()

    def evaluation_parameters(self, context: Context) -> Mapping[str, Tensor]:
        """Return the tortoise."""
        return {name: own.to(context.parameters[name].dtype) for name, own in context.state.items()}
