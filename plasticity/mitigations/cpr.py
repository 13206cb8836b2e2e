"""CPR: continuous partial resets, which mix new weights into those of units with small gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.checks import require_integer, require_known, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.unit_averages import incoming_means

Transform = Literal["sigmoid", "exponential", "softplus", "linear"]
"""Functions from utilities to shares, by their name in a configuration."""


@mitigation("cpr")
@dataclass(frozen=True, kw_only=True)
class CPR(Mitigation):
    """Partial resets: each unit is moved toward a new one, the further the less it learns.

    Known as continuous partial resets, or continuous continual backprop (OpenReview UJqXhFFzKu); the form is
    that of the authors' code. A unit's score is the mean absolute gradient of its incoming weights, divided
    by the mean of its layer. Its utility u is the exponential average of the scores, 1 at first and after
    each reset. After `every` steps, with d = `sharpness` * (u - `threshold`), each unit has a share
    p = `replacement_rate` * t:

    | transform | t, at most 1 |
    |---|---|
    | `sigmoid` | 2 / (1 + exp(d)) |
    | `exponential` | exp(-d) |
    | `softplus` | log(1 + exp(-d)) / log(2) |
    | `linear` | 1 - d, at least 0 |

    Its incoming weights become (1 - p) w + p new, with new ones from the distribution of the initial ones,
    and its outgoing weights (1 - p) w.

    What is decided here:

    - All incoming weights are mixed before any outgoing weight shrinks, so that a weight from unit i to unit
      j becomes (1 - p_i) ((1 - p_j) w + p_j new), whatever the order of the layers; elsewhere, layer by
      layer, the new part is not shrunk.
    - Biases, moments and output units stay, but for the columns of the output layer, which shrink.
    - A unit without a gradient has a score of 0, and the largest share; a whole layer without gradients, too.
    - The gradients are those of the task's loss: decays are no part of them, and a mitigation with a penalty
      is refused.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the transform is unknown.
    """

    kind: ClassVar[Kind] = "unit reset"
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True
    records_features: ClassVar[bool] = False
    reads_task_gradients: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"replacement_rate": (0.01, 0.015, 0.03)}

    every: int = 1000
    """Optimizer steps between two partial resets; 100 in the published supervised runs."""

    replacement_rate: float = 0.015
    """Largest share of new weights in a unit, 0 to 1."""

    transform: Transform = "sigmoid"
    """Function from utilities to shares."""

    sharpness: float = 16.0
    """Steepness of the transform; the larger, the more it is a threshold."""

    threshold: float = 1.0
    """Utility up to which a unit has the largest share."""

    decay: float = 0.99
    """Decay of the average of scores in each step."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        require_number("replacement_rate", self.replacement_rate, minimum=0.0)
        if self.replacement_rate > 1:
            raise ValueError(
                f"replacement_rate is a share of new weights, and must be at most 1, not"
                f" {self.replacement_rate}."
            )
        require_known("transform", self.transform, get_args(Transform))
        require_number("sharpness", self.sharpness, minimum=0.0)
        require_number("threshold", self.threshold, minimum=0.0)
        require_number("decay", self.decay, minimum=0.0, below=1.0)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return utilities. Shape of each: (..., units)."""
        every = incoming_means(context, context.parameters)
        return {f"utility/{layer}": torch.ones_like(each) for layer, each in every.items()}

    def before_step(self, context: Context) -> None:
        """Take the gradients of this step into the utilities."""
        for layer, sizes in incoming_means(context, context.gradients).items():
            scores = sizes / (sizes.mean(-1, keepdim=True) + 1e-8)
            average = context.state[f"utility/{layer}"]
            average.lerp_(scores, 1 - context.per_run(self.decay, average))

    def after_step(self, context: Context) -> None:
        """Mix new weights into all units, and begin their averages anew."""
        lead = len(context.lead)
        shares = {layer: self._share(context, layer) for layer in context.units}
        for layer, share in shares.items():
            units = context.units[layer]
            axis = lead + units.axis
            weight = context.parameters[units.weight].detach().movedim(axis, lead)
            new = context.fresh(units.weight).movedim(axis, lead)
            weight.lerp_(new, _like(share, weight).to(weight.dtype))
            context.count(f"reset_units/{layer}", share.sum(-1))
        for layer, share in shares.items():
            for reader in context.units[layer].readers:
                weight = (
                    context.parameters[reader.weight].detach().movedim(lead + reader.axis, lead)
                )
                weight.mul_(1 - _like(reader.fed_by(share), weight))
            context.state[f"utility/{layer}"].fill_(1.0)

    def _share(self, context: Context, layer: str) -> Tensor:
        """Return the share of new weights in each unit. Shape: (..., units)."""
        utility = context.state[f"utility/{layer}"]
        distance = utility - context.per_run(self.threshold, utility)
        distance = distance * context.per_run(self.sharpness, utility)
        if self.transform == "sigmoid":
            part = 2 * torch.sigmoid(-distance)
        elif self.transform == "exponential":
            part = torch.exp(-distance)
        elif self.transform == "softplus":
            part = functional.softplus(-distance) / math.log(2)
        else:
            part = (1 - distance).clamp(min=0)
        return context.per_run(self.replacement_rate, utility) * part.clamp(max=1)


def _like(numbers: Tensor, by_unit: Tensor) -> Tensor:
    """Return numbers of units so that they broadcast to a tensor of shape (..., units, *rest)."""
    return numbers.view(*numbers.shape, *[1] * (by_unit.dim() - numbers.dim()))
