"""Axis of a report: what the rows of a run count, and all that depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plasticity.checks import nearest
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.report.metric_names import short_count

TASK = "task"
"""Axis of rows at the end of every task, counted from 0."""


@dataclass(frozen=True)
class Axis:
    """Axis of the rows of a run, as the configuration of its benchmark has it: tasks, steps or others."""

    keys: tuple[str, ...]
    """Keys of the position in a row, from the coarsest to the finest."""

    length: str
    """Path of the setting that gives the length of a run."""

    @property
    def name(self) -> str:
        """Key of the finest position, and the word for it."""
        return self.keys[-1]

    @property
    def is_dense(self) -> bool:
        """Whether each position has a row, from 0, and with every value: a missing one is a gap.

        Otherwise a row stands for all positions since the row before it, and one that lacks a value (no
        episode ended) is passed over in lines and averages.
        """
        return self.name == TASK

    @property
    def done(self) -> str:
        """Heading for how far each run is."""
        return "rows of each" if self.is_dense else f"{self.name}s of each"

    @property
    def probe(self) -> str:
        """Data that metrics are measured on."""
        if self.is_dense:
            return "the probe batch"
        return "the latest steps" if TASK in self.keys else "the data of the row"

    def text(self, position: int) -> str:
        """Format a position."""
        return str(position) if self.is_dense else short_count(position)

    def first(self, count: int) -> str:
        """Name a number of positions from the first on."""
        return (
            f"the first {self.text(count)} {self.name}s" if count > 1 else f"the first {self.name}"
        )

    def span(self, positions: Sequence[int]) -> str:
        """Describe what an arm is summarised over, given the first, the middle and the last position."""
        if self.is_dense:
            return f"tasks {', '.join(map(str, positions))}"
        return f"to {short_count(positions[-1])}"

    def done_at(self, position: int) -> int:
        """Return how much of the length is done with the row at a position."""
        return position + self.is_dense


def axis_of(benchmark: str) -> Axis:
    """Return the axis of the runs of a benchmark.

    Raises:
        ValueError: if the benchmark is unknown; the message suggests the nearest.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(
            f"{benchmark} is not a benchmark of this version, so that its rows cannot be read: leave its runs"
            f" out.{nearest(benchmark, BENCHMARKS)}"
        )
    config = BENCHMARKS[benchmark].config
    return Axis(config.axes, config.length_path)
