"""ReGraMa: reset of units whose weights have small gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from plasticity.checks import require_integer, require_known, require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.unit_averages import incoming_means

Outgoing = Literal["keep", "zero"]
"""Outgoing weights of units that are reset, by their name in a configuration."""

SMALLEST_GRADIENT = 1e-12
"""Mean absolute gradient of a layer below which its units are not compared: there is nothing to compare."""


@mitigation("regrama")
@dataclass(frozen=True, kw_only=True)
class ReGraMa(Mitigation):
    """Reset of units whose gradients are a small share of their layer's (Liu et al., NeurIPS 2025).

    See arXiv 2505.24061, where GraMa is the measure and ReGraMa the reset. A unit's magnitude G is the mean
    absolute gradient of its incoming weights, of all positions of a convolution's kernel, on the batches of
    the step; it is inactive if G <= `tau` * mean G of its layer. Nothing but gradients is looked at: it
    serves any activation.

    What is decided here:

    - A unit gets new incoming weights from the distribution of the layer's initial ones and a bias of 0, and
      the moments of these become 0. Its outgoing weights stay, as in the authors' code, so that a reset
      changes the outputs; `outgoing="zero"` sets them and their moments to 0, as in ReDo.
    - Output units are never reset, which would begin the head anew, nor are factors of a normalization
      compared.
    - A layer whose mean gradient is less than 1e-12, as after a masked loss, is passed over, since all its
      units would be inactive.
    - The gradients are those of the task's loss: decays are no part of them, and a mitigation with a penalty
      is refused. A penalty that a loop adds to its own loss is part of it. Clipping changes nothing.

    `tau` has the default of another implementation: the paper's own values are not verified.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or `outgoing` is unknown.
    """

    kind: ClassVar[Kind] = "unit reset"
    claims: ClassVar[str] = "which units are reset"
    reads_units: ClassVar[bool] = True
    reads_task_gradients: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "tau": (0.001, 0.01, 0.1),
        "every": (100, 1000),
    }

    every: int = 1000
    """Optimizer steps between two looks at the units."""

    tau: float = 0.01
    """Largest share of the layer's mean that an inactive unit's gradients have. 0: only units without any."""

    outgoing: Outgoing = "keep"
    """Fate of the outgoing weights: they stay, or become 0."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        require_number("tau", self.tau, minimum=0.0)
        require_known("outgoing", self.outgoing, get_args(Outgoing))

    def after_step(self, context: Context) -> None:
        """Reset the units that are inactive on the batch of this step."""
        chosen = {}
        for layer, sizes in incoming_means(context, context.gradients).items():
            usual = sizes.mean(-1, keepdim=True)
            is_inactive = sizes <= context.per_run(self.tau, sizes) * usual
            chosen[layer] = is_inactive & (usual >= SMALLEST_GRADIENT)
        context.reset_units(chosen, keep_outgoing=self.outgoing == "keep")
