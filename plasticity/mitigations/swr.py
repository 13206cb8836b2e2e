"""SWR: selective reinitialization of single weights of low utility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.initialization import Uniform
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.mitigations.context import Context
from plasticity.precision import wide_dtype

Utility = Literal["gradient", "magnitude"]
Choice = Literal["threshold", "proportion"]


@mitigation("swr")
@dataclass(frozen=True, kw_only=True)
class SWR(Mitigation):
    """Reinitialization of the single weights of least utility (Hernandez-Garcia et al., CoLLAs 2025).

    The utility of a weight w with gradient g is |g w|, or |w|. In each parameter by itself, of whatever kind,
    the weights at or below `share` times the mean utility are chosen, or the `share` of lowest utility: the
    whole number of these, and one more with the probability of the rest. A weight that is chosen is drawn
    anew from the initial distribution of its parameter, and its moments become 0; in the published code, they
    go on to push the new weight. The next row counts the weights, as `reset_weights`.

    A parameter whose utility is 0 everywhere is left alone: nothing tells its weights apart, and a threshold
    would choose them all. Utilities are those of the last step, not averaged. Where inputs are always 0, such
    as the borders of digits, weights have no gradient and are chosen each time.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "weight reset"
    claims: ClassVar[str] = "which weights are reset"
    search: ClassVar[dict[str, tuple[float, ...]]] = {"share": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}

    every: int = 2048
    """Optimizer steps between two reinitializations."""

    share: float = 1e-5
    """Share of the mean utility, or of the number of weights, as `choice` says."""

    utility: Utility = "gradient"
    """Utility of a weight. gradient: its size times that of its gradient. magnitude: its size."""

    choice: Choice = "threshold"
    """Rule that chooses weights. threshold: those of at most `share` times their parameter's mean utility.
    proportion: the `share` of them whose utility is lowest."""

    def __post_init__(self) -> None:
        require_integer("every", self.every, minimum=1)
        require_number("share", self.share, minimum=0.0)
        require_known("utility", self.utility, get_args(Utility))
        require_known("choice", self.choice, get_args(Choice))
        if self.choice == "proportion" and self.share > 1:
            raise ValueError(
                f"share={self.share} is more than all of the weights: give at most 1 with"
                " choice='proportion'."
            )

    def after_step(self, context: Context) -> None:
        """Reinitialize the weights of least utility."""
        gradients = context.gradients
        for name, weight in context.trained.items():
            if self.utility == "magnitude":
                utility = weight.detach().abs()
            elif name in gradients:
                utility = (gradients[name] * weight.detach()).abs()
            else:
                continue
            flat = utility.reshape(*context.lead, -1)
            chosen = self._lowest(context, flat)
            context.replace(name, chosen.view(weight.shape), context.fresh(name))
            context.count("reset_weights", chosen.sum(-1))

    def _lowest(self, context: Context, utility: Tensor) -> Tensor:
        """Return which weights of a parameter are chosen. Shape: (..., weights) to the same, bool."""
        # in half precision, the number of weights may be infinite
        mean = utility.mean(-1, keepdim=True, dtype=wide_dtype(utility))
        share = context.per_run(self.share, mean)
        if self.choice == "threshold":
            return (utility <= share * mean) & (mean > 0)
        draw = context.draw(Uniform(0.5), torch.empty_like(mean)) + 0.5  # 0 to 1
        number = (utility.shape[-1] * share + draw).floor()
        ranks = utility.argsort(dim=-1, stable=True).argsort(dim=-1)
        return (ranks < number) & (mean > 0)
