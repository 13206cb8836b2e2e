"""Configuration of a figure's runs: what every figure has, for its own file to extend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from plasticity.checks import require_integer
from plasticity.scripts.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class FigureStream:
    """Problem of a figure: what a run is given to learn, and for how long.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    fixed: ClassVar[tuple[str, ...]] = ()
    """Names of settings that the figure's name stands for: none."""

    described: ClassVar[tuple[str, ...]] = ()
    """Keys of a row that tell what its task is: none, as there is one task."""

    num_steps: int = 1000
    """Steps of a run, which ends with the first row of metrics at or past it."""

    def __post_init__(self) -> None:
        require_integer("num_steps", self.num_steps, minimum=1)


@dataclass(frozen=True, kw_only=True)
class NoAgent:
    """Learner of a figure that has none, or one without settings."""


@dataclass(frozen=True, kw_only=True)
class FigureTracking:
    """Measurements along the way.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    measure_every: int = 100
    """Steps between two rows of metrics."""

    def __post_init__(self) -> None:
        require_integer("measure_every", self.measure_every, minimum=1)


@dataclass(frozen=True, kw_only=True)
class FigureConfig(RunConfig):
    """Configuration of one run of a figure: steps, with a row every so many.

    A figure's own configuration names its `experiment`, and replaces the types of `stream`, `agent` and
    `tracking` by subclasses with the settings that it needs.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    axes: ClassVar[tuple[str, ...]] = ("step",)
    length_path: ClassVar[str] = "stream.num_steps"

    stream: FigureStream = field(default_factory=FigureStream)
    """Problem that the run learns."""

    agent: NoAgent = field(default_factory=NoAgent)
    """Settings of the learner."""

    tracking: FigureTracking = field(default_factory=FigureTracking)
    """Measurements along the way."""

    @property
    def length(self) -> int:
        """Steps at which the run ends: those of the first row at or past `num_steps`."""
        steps = super().length
        while not self.has_row(steps):
            steps += 1
        return steps

    def has_row(self, step: int) -> bool:
        """Return whether there is a row once so many steps are done."""
        return step % self.tracking.measure_every == 0
