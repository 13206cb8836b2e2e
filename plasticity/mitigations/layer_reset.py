"""Layer reset: the last layers anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from plasticity.checks import require_integer
from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.scheduled import Scheduled
from plasticity.mitigations.whole_layers import layer_groups, redraw, reset_statistics


@mitigation("layer-reset")
@dataclass(frozen=True, kw_only=True)
class LayerReset(Scheduled):
    """Reset of the last layers when a task begins, or after every so many steps (Nikishin et al., 2022).

    See "The Primacy Bias in Deep Reinforcement Learning". Weights, biases and the normalizations behind them
    are drawn anew from their initial distributions; the optimizer's moments of these become 0, its count of
    steps stays, and running statistics begin anew. The layers are in the order in which the model has
    them, with the output layer as the last one: all output layers together, if there are several.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the last layers of a task"
    reads_roles: ClassVar[bool] = True
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"layers": (1, 2)}

    layers: int = 2
    """Number of layers that are reset, the output layer included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("layers", self.layers, minimum=1)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return no state.

        Raises:
            ValueError: if there are not as many layers.
        """
        count = len(layer_groups(context.roles))
        if count < self.layers:
            raise ValueError(
                f"layer-reset has layers={self.layers}, but the network has {count}: give at most that."
            )
        return {}

    def act(self, context: Context) -> None:
        """Reset the last layers."""
        groups = layer_groups(context.roles)[-self.layers :]
        names = [name for group in groups for name in group]
        redraw(context, names)
        for name in names:
            context.clear_moments(name)
        reset_statistics(context, {context.roles[name].layer for name in names})
