"""Shrink and perturb: learned weights, shrunk, plus a little of freshly drawn ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from plasticity.checks import require_bool, require_known, require_number
from plasticity.mitigations.base import Kind, mitigation
from plasticity.mitigations.context import Context
from plasticity.mitigations.kept_parameters import copies
from plasticity.mitigations.scheduled import Scheduled
from plasticity.mitigations.whole_layers import reset_statistics

Source = Literal["fresh", "initial"]


@mitigation("shrink-perturb")
@dataclass(frozen=True, kw_only=True)
class ShrinkPerturb(Scheduled):
    """Mixture of the learned weights with freshly drawn ones, when a task begins (Ash & Adams, 2020).

    See "On Warm-Starting Neural Network Training". Every parameter, biases and the affine ones of
    normalizations included, becomes `shrink * theta + perturb * fresh`, where `fresh` is drawn anew from the
    parameter's own initial distribution. As the paper makes a new network of these parameters, running
    statistics and the optimizer's state begin anew.

    The factors are ours; the paper's were not at hand. With `source="initial"`, the network's own first
    weights take the place of the draw: without any randomness, repeated mixtures lead back to them. Noise
    after every step is `weight-noise`.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "the start of a task"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "shrink": (0.3, 0.5, 0.8),
        "perturb": (0.01, 0.1, 0.5),
    }

    shrink: float = 0.5
    """Factor of the learned weights."""

    perturb: float = 0.5
    """Factor of the weights that are added."""

    source: Source = "fresh"
    """Weights that are added. fresh: a new draw each time. initial: the first weights of the network."""

    restart_optimizer: bool = True
    """Whether the optimizer's state begins anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shrink", "perturb"):
            require_number(name, getattr(self, name), minimum=0.0)
        require_known("source", self.source, get_args(Source))
        require_bool("restart_optimizer", self.restart_optimizer)

    def initial_state(self, context: Context) -> dict[str, Tensor]:
        """Return the first weights, if they are needed."""
        return copies(context.parameters) if self.source == "initial" else {}

    def act(self, context: Context) -> None:
        """Mix the weights."""
        for name, weight in context.trained.items():
            added = context.state[name] if self.source == "initial" else context.fresh(name)
            weight.mul_(context.per_run(self.shrink, weight))
            weight.add_(added * context.per_run(self.perturb, weight))
        reset_statistics(context)
        if self.restart_optimizer:
            context.restart_optimizer()
