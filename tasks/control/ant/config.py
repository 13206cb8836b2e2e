"""Slippery-Ant as a family of environments, one for each physics engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from plasticity.tasks.control.ant.engines import ENGINES
from plasticity.tasks.control.ant.views import VIEWS
from plasticity.tasks.control.base import View
from plasticity.tasks.control.slippery.config import SlipperyConfig

if TYPE_CHECKING:
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp


@dataclass(frozen=True, kw_only=True)
class SlipperyAntConfig(SlipperyConfig):
    """Settings of ants on ground whose friction changes (Dohare et al., Nature 2024).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    engines: ClassVar = ENGINES

    engine: str
    """Physics engine, a key of `plasticity.tasks.ENGINES`: bullet, mujoco or warp."""

    def _warp_class(self) -> type[SlipperyAntWarp]:
        from plasticity.tasks.control.ant import warp  # noqa: PLC0415  (a GPU's engine)

        return warp.SlipperyAntWarp

    @property
    def view(self) -> View:
        """Properties of the engine's ant that `plasticity video` needs."""
        return VIEWS[self.engine]
