"""Settings of all families of walkers on floors whose friction changes."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.control.slippery.friction import FrictionStream


@dataclass(frozen=True, kw_only=True)
class SlipperyConfig(EnvironmentConfig):
    """Settings of walkers on floors whose friction changes (Dohare et al., Nature 2024).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    def make_stream(self, num_tasks: int, seed: int) -> FrictionStream:
        """Return the stream of frictions."""
        return FrictionStream(num_tasks, self.change_every, seed)
