"""Churn: a penalty on how an update changes the outputs for other inputs, as in C-CHAIN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.kept_parameters import copies, keep_parameters, kept_parameters
from plasticity.mitigations.recent_inputs import (
    draw_recent_inputs,
    recent_inputs,
    remember_inputs,
    room_for_inputs,
)

Distance = Literal["squared", "kl"]
"""Distances between outputs."""

PREVIOUS = "previous/"
"""Prefix of the parameters before the latest update, in the state."""


@mitigation("churn")
@dataclass(frozen=True, kw_only=True)
class Churn(Mitigation):
    """Penalty on the change of the outputs for reference inputs by the latest update (Tang et al., 2025).

    C-CHAIN, from "Mitigating Plasticity Loss in Continual Reinforcement Learning by Reducing Churn". With θ'
    the parameters before the previous step, which are held fixed, the loss gets

        strength · D(f(θ, reference), f(θ', reference)),

    which is 0 at the first step, as θ' = θ then. It serves classifiers, and actor and critic of PPO alike.

    What is decided here:

    - The reference inputs are drawn anew for each step from the `memory` latest inputs, without those of this
      step and of the previous one, whose outputs are meant to change. Where a task has several epochs, an
      example may be among them that a step sees again. In the first two steps there are none, and no penalty.
    - The strength is constant. Published is one that follows the mean of the main loss over that of the
      penalty, and the annealing of the learning rate.
    - D is the mean squared difference of the outputs, as published for means of actions and for values; or
      the KL divergence of classes from before to now, whose gradient is that of the cross-entropy published
      for discrete actions. A network with one output, such as a critic, always has the squared difference.
    - Both passes are in evaluation mode, with the running statistics of now.

    A step costs a second pass forward and backward, of the reference inputs, and a third one forward.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the distance is unknown.
    """

    kind: ClassVar[Kind] = "penalty"
    claims: ClassVar[str] = "the churn"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"strength": (0.01, 0.1, 1.0, 10.0)}
    reads_example: ClassVar[bool] = True

    strength: float = 0.1
    """Factor of the penalty."""

    distance: Distance = "squared"
    """Distance of outputs: "squared", or "kl" for logits of classes or discrete actions."""

    references: int = 64
    """Number of reference inputs of a step."""

    memory: int = 512
    """Number of latest inputs that they are drawn from."""

    def __post_init__(self) -> None:
        require_number("strength", self.strength, minimum=0.0)
        require_known("distance", self.distance, get_args(Distance))
        for name in ("references", "memory"):
            require_integer(name, getattr(self, name), minimum=1)

    @property
    def needs_logits(self) -> bool:
        """Whether the distance is that of classes."""
        return self.distance == "kl"

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the parameters, room for inputs, and 0 for whether there are reference inputs."""
        return {
            **copies(context.parameters, PREVIOUS),
            **recent_inputs(context, self.memory),
            "reference": room_for_inputs(context, self.references),
            "has_reference": context.zeros(),
        }

    def penalty(self, context: Context) -> Tensor:
        """Return the penalty on the churn by the previous step."""
        state, lead = context.state, len(context.lead)
        outputs = context.forward(state["reference"])
        with torch.no_grad():
            before = context.forward(state["reference"], kept_parameters(context, PREVIOUS))
        if self.distance == "squared" or outputs.shape[-1] == 1:
            distances = (outputs - before).square().flatten(lead).mean(-1)
        else:
            distances = _divergence(before, outputs).flatten(lead).mean(-1)
        weight = context.per_run(self.strength, distances) * state["has_reference"]
        return weight * distances

    def before_step(self, context: Context) -> None:
        """Keep the parameters as they are before the step."""
        keep_parameters(context, PREVIOUS)

    def after_step(self, context: Context) -> None:
        """Draw the reference inputs of the next step, and then remember the inputs of this one."""
        if context.step > 1:
            draw_recent_inputs(context, context.state["reference"])
            context.state["has_reference"].fill_(1.0)
        remember_inputs(context)


def _divergence(before: Tensor, now: Tensor) -> Tensor:
    """Compute the KL divergence of the classes now from those before. Shape: (..., classes) to (...)."""
    before, now = before.log_softmax(-1), now.log_softmax(-1)
    return (before.exp() * (before - now)).sum(-1)
