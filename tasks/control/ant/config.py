"""Slippery-Ant as a family of environments, one for each physics engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import torch

from plasticity.checks import require_known, require_name
from plasticity.tasks.control.ant.engines import DEVICE_ENGINES, ENGINES
from plasticity.tasks.control.ant.views import VIEWS
from plasticity.tasks.control.base import View
from plasticity.tasks.control.slippery.config import SlipperyConfig


@dataclass(frozen=True, kw_only=True)
class SlipperyAntConfig(SlipperyConfig):
    """Settings of ants on ground whose friction changes (Dohare et al., Nature 2024).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    fixed: ClassVar[tuple[str, ...]] = ("engine",)

    engine: str
    """Physics engine, a key of `plasticity.tasks.ENGINES`: bullet, mujoco or warp."""

    def __post_init__(self) -> None:
        require_name("engine", self.engine)
        require_known("engine", self.engine, ENGINES)
        super().__post_init__()

    def make_env(
        self, values: Mapping[str, float] | None = None, **arguments: Any
    ) -> gymnasium.Env[Any, Any]:
        """Make one ant; Warp's, one by one, are MuJoCo's."""
        return ENGINES[self.engine](**{**(values or {}), **arguments})

    @property
    def view(self) -> View:
        """Properties of the engine's ant that `plasticity video` needs."""
        return VIEWS[self.engine]

    @property
    def on_device(self) -> bool:
        """Whether the engine steps the ants of several runs at once."""
        return self.engine in DEVICE_ENGINES

    def require_installed(self) -> None:
        """Raise a ModuleNotFoundError if a package of the engine is missing."""
        super().require_installed()
        if self.engine == "warp":
            from plasticity.tasks.control.ant.warp_physics import load_modules  # noqa: PLC0415  (a GPU's engine)

            load_modules()

    def make_on_device(
        self, reset_seeds: Sequence[int], task_seeds: Sequence[int], device: str
    ) -> Any:
        """Make Warp's ants."""
        from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415  (a GPU's engine)

        try:
            return SlipperyAntWarp(
                len(reset_seeds),
                reset_seeds=reset_seeds,
                task_seeds=task_seeds,
                change_every=self.env_change_every,
                device=device,
            )
        except RuntimeError as error:
            if "Failed to allocate" in str(error):  # Warp has no class of errors for it
                raise torch.cuda.OutOfMemoryError(str(error)) from error
            raise
