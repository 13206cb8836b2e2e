"""UPGD: steps that are gated by the utility of each weight, and perturbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_known, require_number
from plasticity.initialization import Normal
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.precision import wide_dtype

Normalization = Literal["global", "local"]
"""Ways to compare utilities, by their name in a configuration."""

UTILITY = "utility"
"""Name of the running utility of a parameter in the state, before its name."""


@mitigation("upgd")
@dataclass(frozen=True, kw_only=True)
class UPGD(Mitigation):
    """Steps and noise that are small where a weight is useful (Elsayed & Mahmood, 2024).

    See "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", utility-based
    perturbed gradient descent with the first-order utility of each weight. For a weight θ with gradient g,

        u ← β u - (1 - β) g θ,    s = sigmoid(u / scale),    θ ← θ + (1 - s) Δ - η (1 - s) ξ,

    where Δ is the step of the optimizer, whichever it is, η its learning rate, and ξ ~ N(0, noise²). With
    plain SGD this is the published update, with Adam the published AdaUPGD. The scale is the largest u of the
    network ("global", the gate is then at least 1 - sigmoid(1) = 0.27), or the Euclidean norm of u along the
    last dimension of each parameter ("local").

    What is decided here:

    - The published code corrects the bias of u in the numerator and not in the largest u, which freezes the
      most useful weights in the first steps. Corrected in both, it cancels out, and is left out. Where no u
      is positive, every gate is 1/2.
    - A gate of 1/2 is the usual one, so that steps are half as long: a learning rate twice as large makes up
      for it, as in the published code for reinforcement learning.
    - Whatever the optimizer does in its step is gated, its decay toward 0 or toward an anchor included.
      Published is one that is not: it is `decay`, apart from the gates.
    - It acts before the other mitigations do, as a part of the step. Weights that these reset have no utility
      at first.

    Parameters without a gradient stay as they are. Each step draws a number for every weight, which takes
    more time than the step of SGD itself.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or a name is unknown.
    """

    kind: ClassVar[Kind] = "optimizer"
    claims: ClassVar[str] = "the size of steps"
    comes_first: ClassVar[bool] = True
    memories: ClassVar[tuple[str, ...]] = (UTILITY,)
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "noise": (0.001, 0.01, 0.1),
        "beta": (0.99, 0.999, 0.9999),
    }

    beta: float = 0.9999
    """Weight of the past in the running mean of utilities."""

    noise: float = 0.1
    """Standard deviation of the noise, which a step adds times the learning rate. 0: there is none."""

    decay: float = 0.0
    """Strength of a decay to 0, as AdamW's weight_decay, that no gate holds back."""

    normalization: Normalization = "global"
    """Utilities are compared with the largest of the network (global), or with the norm along the last
    dimension of a parameter (local)."""

    protecting: bool = True
    """Whether the optimizer's step is gated. False: only the noise is."""

    def __post_init__(self) -> None:
        require_number("beta", self.beta, minimum=0.0, below=1.0)
        require_number("noise", self.noise, minimum=0.0)
        require_number("decay", self.decay, minimum=0.0)
        require_known("normalization", self.normalization, get_args(Normalization))
        require_bool("protecting", self.protecting)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return utilities of 0. Shape of each: (..., *shape)."""
        return {
            f"{UTILITY}/{name}": torch.zeros_like(each, dtype=wide_dtype(each), requires_grad=False)
            for name, each in context.parameters.items()
        }

    def before_step(self, context: Context) -> None:
        """Update the utilities, and keep the weights."""
        gradients = context.gradients
        for name, utility in _utilities(context).items():
            weight = context.parameters[name]
            rate = 1 - context.per_run(self.beta, utility)
            utility.add_((gradients[name] * weight + utility) * -rate)
            context.scratch(name).copy_(weight)

    def after_step(self, context: Context) -> None:
        """Gate the step, and add decay and noise."""
        utilities = _utilities(context)
        if not utilities:
            return
        scales = _largest(context, utilities) if self.normalization == "global" else None
        for name, utility in utilities.items():
            scale = _norm(context, utility) if scales is None else context.per_run(scales, utility)
            ratio = torch.where(torch.as_tensor(scale > 0), utility / scale, 0)
            gate = (-ratio).sigmoid()  # which is 1 - sigmoid(ratio)
            weight, before = context.parameters[name], context.scratch(name)
            rate = context.learning_rate(name)
            if self.protecting:
                weight.sub_(before).mul_(gate).add_(before)
            weight.sub_(before * (rate * context.per_run(self.decay, weight)))
            noise = torch.empty_like(
                weight, memory_format=torch.contiguous_format, requires_grad=False
            )
            context.draw(Normal(1.0), noise)
            weight.sub_(noise.mul_(gate).mul_(rate * context.per_run(self.noise, weight)))


def _utilities(context: Context) -> dict[str, Tensor]:
    """Return the utilities of the parameters that this step moves, by name."""
    return {name: context.state[f"{UTILITY}/{name}"] for name in context.moved}


def _largest(context: Context, utilities: Mapping[str, Tensor]) -> Tensor:
    """Return the largest utility of each network. Shape: (...)."""
    flat = [each.reshape(*context.lead, -1) for each in utilities.values()]
    return torch.stack([each.amax(-1) for each in flat]).amax(0)


def _norm(context: Context, utility: Tensor) -> Tensor:
    """Return the Euclidean norm along the last dimension, which a single number has not. Shape: (..., 1)."""
    if utility.dim() == len(context.lead):
        return utility.abs()
    norm: Tensor = torch.linalg.vector_norm(utility, dim=-1, keepdim=True)
    return norm
