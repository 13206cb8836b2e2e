"""Syre: symmetry removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from plasticity.mitigations.base import Decay, mitigation
from plasticity.optim.settings import RegularizerSettings


@mitigation("syre")
@dataclass(frozen=True, kw_only=True)
class Syre(Decay):
    """Decay toward a random anchor, which removes symmetries (Ziyin et al., ICLR 2025).

    It adds `strength * D * (theta - anchor)` to the gradient, with an anchor drawn once from a normal of
    standard deviation `sigma / sqrt(fan-in)`, and with factors `D` of 1, or scattered around 1 (Eq. 7).
    In the shifted coordinates of the paper, `loss(theta + theta_0) + strength / 2 * |theta|^2`, it is plain
    weight decay. No symmetric state is stationary any longer, so that no network is trapped in one.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    search: ClassVar[Mapping[str, tuple[float, ...]]] = {
        **Decay.search,
        "sigma": (0.01, 0.1, 0.3, 0.5, 1.0),
    }

    sigma: float = RegularizerSettings.sigma
    """Spread of the anchor, relative to the usual initialisation: sigma / sqrt(fan-in)."""

    anisotropy: float = 0.0
    """Standard deviation of the per-coordinate factors (Eq. 7), below 0.577."""

    def optimizer(self, settings: RegularizerSettings) -> RegularizerSettings:
        """Return the settings of the decay, with those of its anchor.

        The anchor's seed stays that of `settings`, which the run draws from its own.
        """
        return replace(super().optimizer(settings), sigma=self.sigma, anisotropy=self.anisotropy)
