"""Syre's shift without its decay: a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from plasticity.checks import require_number
from plasticity.mitigations.base import Kind, Mitigation, mitigation
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings


@mitigation("shift")
@dataclass(frozen=True, kw_only=True)
class Shift(Mitigation):
    """Syre's shift without its decay: a control that removes no symmetry (Prop. 1).

    Training starts from weights moved by an anchor as syre draws it, and nothing pulls them anywhere.
    Whatever syre gains over it is due to the decay, and not to another initialisation.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    kind: ClassVar[Kind] = "decay"
    claims: ClassVar[str] = "the initial shift"
    search: ClassVar[Mapping[str, tuple[float, ...]]] = {"sigma": (0.01, 0.1, 0.3, 0.5, 1.0)}

    sigma: float = RegularizerSettings.sigma
    """Spread of the shift, relative to the usual initialisation: sigma / sqrt(fan-in)."""

    def __post_init__(self) -> None:
        require_number("sigma", self.sigma, minimum=0.0)

    @torch.no_grad()
    def initial_weights(self, network: nn.Module, seed: int) -> None:
        """Move the weights by the anchors that syre would decay them toward."""
        optimizer = regularized(torch.optim.SGD)(
            network.parameters(),
            regularizer="syre",
            strength=0.0,
            sigma=self.sigma,
            anchor_seed=seed,
        )
        for parameter in network.parameters():
            anchor = optimizer.anchor(parameter)
            if anchor is not None:
                parameter.add_(anchor)
