"""W-fix: weights that are held at their initial values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_number
from plasticity.mitigations.base import mitigation
from plasticity.mitigations.fixed_weights import FixedWeights


@mitigation("w-fix")
@dataclass(frozen=True, kw_only=True)
class WFix(FixedWeights):
    """Random weights that are held at their initial values, while the others are trained.

    The variant of W-asymmetric networks that Ziyin et al. (ICLR 2025) compare syre with, after Lim et al.
    (2024): what a symmetry exchanges or inverts differs in the weights that are held. Each is chosen by
    itself, whatever its unit.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"share": (0.03, 0.1, 0.3, 0.5)}

    share: float = 0.1
    """Probability that a weight is held, from 0 to 1."""

    def __post_init__(self) -> None:
        if require_number("share", self.share, minimum=0.0) > 1:
            raise ValueError(f"share must be at most 1, not {self.share!r}.")

    def fixed(self, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random entries, and the weights as they are."""
        return torch.rand(weight.shape, generator=generator) < self.share, weight
