"""Axes of a report: what the rows of a run count, and all that depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.scripts.config.run_config import LENGTHS
from plasticity.scripts.report.metric_names import short_count


@dataclass(frozen=True)
class Axis:
    """Axis of the rows of a run: tasks or steps."""

    name: str
    """Key of the position in a row, and the word for it."""

    is_dense: bool
    """Whether each position has a row: from 0, and with every value, so that a missing one is a gap in a line
    and in an average. Otherwise a row stands for all positions since the row before it, and one that lacks a
    value (no episode ended) is passed over."""

    text: Callable[[int], str]
    """Function that formats a position."""

    span: Callable[[Sequence[int]], str]
    """Function that describes what an arm is summarised over, given the first, the middle and the last
    position."""

    done: str
    """Heading for how far each run is."""

    probe: str
    """Data that metrics are measured on."""

    @property
    def length(self) -> str:
        """Path of the setting that gives the length of a run."""
        return LENGTHS[self.name]

    def done_at(self, position: int) -> int:
        """Return how much of the length is done with the row at a position."""
        return position + self.is_dense


TASKS = Axis(
    name="task",
    is_dense=True,
    text=str,
    span=lambda positions: f"tasks {', '.join(map(str, positions))}",
    done="rows of each",
    probe="the probe batch",
)
"""A row for each task, at its end."""

STEPS = Axis(
    name="step",
    is_dense=False,
    text=short_count,
    span=lambda positions: f"to {short_count(positions[-1])}",
    done="steps of each",
    probe="the latest rollout",
)
"""A row for every so many steps; it names the task, too."""


def axis_of(rows: Sequence[Mapping[str, Any]]) -> Axis:
    """Return the axis of some rows, which the first one shows."""
    return STEPS if rows and STEPS.name in rows[0] else TASKS
