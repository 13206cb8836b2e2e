"""Optimizer reset: the optimizer's state anew for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.scheduled import Scheduled


@mitigation("optimizer-reset")
@dataclass(frozen=True, kw_only=True)
class OptimizerReset(Scheduled):
    """Return of the optimizer's state to its beginning when a task begins; no weight changes.

    Moments and counts of steps become 0 (Asadi et al., 2023, "Resetting the Optimizer in Deep RL"). Under
    Adam, each weight then moves by the whole learning rate in the next step, whatever its gradient's size.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the optimizer's state at the start of a task"

    def act(self, context: Context) -> None:
        """Reset the optimizer's state."""
        context.restart_optimizer()
