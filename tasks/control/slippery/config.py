"""Settings of all families of walkers on floors whose friction changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import torch

from plasticity.checks import require_known, require_name
from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.control.slippery.friction import FrictionStream

if TYPE_CHECKING:
    from plasticity.tasks.control.slippery.warp import SlipperyWarp

DEVICE_ENGINES = ("warp",)
"""Engines that step all their walkers at once on a device, not one by one in processes."""


@dataclass(frozen=True, kw_only=True)
class SlipperyConfig(EnvironmentConfig):
    """Settings of walkers on floors whose friction changes (Dohare et al., Nature 2024).

    A family says which engines there are (`engines`, `engine`), and which class steps many walkers in MuJoCo
    Warp (`_warp_class`).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the environments cannot share the interval evenly.
    """

    fixed: ClassVar[tuple[str, ...]] = ("engine",)
    engines: ClassVar[Mapping[str, Any]]
    """Physics engines by name, with the environment of a single walker; Warp's, one by one, are MuJoCo's."""

    engine: str
    """Physics engine, a key of `engines`."""

    def __post_init__(self) -> None:
        require_name("engine", self.engine)
        require_known("engine", self.engine, self.engines)
        super().__post_init__()

    def _warp_class(self) -> type[SlipperyWarp]:
        """Return the class of many walkers in MuJoCo Warp."""
        raise NotImplementedError

    def make_stream(self, num_tasks: int, seed: int) -> FrictionStream:
        """Return the stream of frictions."""
        return FrictionStream(num_tasks, self.change_every, seed)

    def make_env(
        self, values: Mapping[str, float] | None = None, **arguments: Any
    ) -> gymnasium.Env[Any, Any]:
        """Make one walker; Warp's, one by one, are MuJoCo's."""
        made: gymnasium.Env[Any, Any] = self.engines[self.engine](**{**(values or {}), **arguments})
        return made

    @property
    def on_device(self) -> bool:
        """Whether the engine steps the walkers of several runs at once."""
        return self.engine in DEVICE_ENGINES

    def require_installed(self) -> None:
        """Raise a ModuleNotFoundError if a package of the engine is missing."""
        super().require_installed()
        if self.on_device:
            from plasticity.tasks.control.slippery.warp_physics import load_modules  # noqa: PLC0415  (a GPU's)

            load_modules(self._warp_class().body.name)

    def make_on_device(
        self, reset_seeds: Sequence[int], task_seeds: Sequence[int], device: str
    ) -> Any:
        """Make Warp's walkers."""
        walkers: Any = self._warp_class()  # whose constructor knows the size of its observations
        try:
            return walkers(
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
