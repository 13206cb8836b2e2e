"""Head reset: a new output layer for a new task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from plasticity.checks import require_known
from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.scheduled import Scheduled
from plasticity.mitigations.whole_layers import redraw

Values = Literal["fresh", "zero"]


@mitigation("head-reset")
@dataclass(frozen=True, kw_only=True)
class HeadReset(Scheduled):
    """Reset of the output layer when a task begins, so that no task reads features as the last one did.

    Weights and biases are drawn anew from their initial distributions, or become 0, as in the continual
    ImageNet of Dohare et al. (2024). The optimizer's moments of both become 0, and its count of steps stays.
    A model with several output layers, such as a policy with its value, gets all of them anew.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the last layers of a task"
    reads_roles: ClassVar[bool] = True

    values: Values = "fresh"
    """New weights and biases. fresh: drawn anew. zero: 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("values", self.values, get_args(Values))

    def act(self, context: Context) -> None:
        """Reset the output layer."""
        names = [name for name, role in context.roles.items() if role.is_output]
        if self.values == "fresh":
            redraw(context, names)
        for name in names:
            if self.values == "zero":
                context.parameters[name].zero_()
            context.clear_moments(name)
