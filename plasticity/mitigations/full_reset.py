"""Full reset: a new network for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.scheduled import Scheduled
from plasticity.mitigations.whole_layers import redraw, reset_statistics


@mitigation("full-reset")
@dataclass(frozen=True, kw_only=True)
class FullReset(Scheduled):
    """Reset of the whole network when a task begins: what plasticity is measured against.

    Every parameter is drawn anew from its initial distribution, another draw each time; running statistics
    and the optimizer's state begin anew. The masks and fixed weights of other mitigations stay, and so do the
    anchors of a decay.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the start of a task"

    def act(self, context: Context) -> None:
        """Reset the network."""
        redraw(context, context.trained)
        reset_statistics(context)
        context.restart_optimizer()
