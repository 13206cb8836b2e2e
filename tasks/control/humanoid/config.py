"""Slippery humanoids as a family of environments, one for each physics engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from plasticity.tasks.control.base import View
from plasticity.tasks.control.humanoid.mujoco import STEP_SECONDS, SlipperyHumanoidEnv
from plasticity.tasks.control.slippery.config import SlipperyConfig

if TYPE_CHECKING:
    from plasticity.tasks.control.humanoid.warp import SlipperyHumanoidWarp

HUMANOID_ENGINES: Mapping[str, type[SlipperyHumanoidEnv]] = {
    "mujoco": SlipperyHumanoidEnv,
    "warp": SlipperyHumanoidEnv,
}
"""Physics engines of the humanoid, by name, with the environment of a single one: Warp's is MuJoCo's."""

_VELOCITY_ALONG_X = 22  # in the observation, after the height, the orientation and 17 angles


def humanoid_speed(observation: NDArray[Any]) -> float:
    """Return the speed of the humanoid's torso along x, in m/s, from an observation, (348,)."""
    return float(observation[_VELOCITY_ALONG_X])


@dataclass(frozen=True, kw_only=True)
class SlipperyHumanoidConfig(SlipperyConfig):
    """Settings of humanoids on ground whose friction changes.

    The published slippery humanoid, of LucMc's `continual-learning`, does not change its friction: the code
    sets it in a copy of the model that is not simulated. This one has no published numbers to be held to.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    engines: ClassVar = HUMANOID_ENGINES

    engine: str = "mujoco"
    """Physics engine, mujoco or warp."""

    def _warp_class(self) -> type[SlipperyHumanoidWarp]:
        from plasticity.tasks.control.humanoid import warp  # noqa: PLC0415  (a GPU's engine)

        return warp.SlipperyHumanoidWarp

    @property
    def view(self) -> View:
        """Properties that `plasticity video` needs: 22 pictures per simulated second."""
        return View(STEP_SECONDS, 3, "fell, or jumped too high", humanoid_speed)
