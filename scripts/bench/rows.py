"""Rows of the table of `plasticity bench`: numbers, their goals, and what they were computed from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from plasticity.scripts.bench.timing import quartiles

Ratio = Literal["time", "speed", "share"]
"""Units of a ratio of two times."""


@dataclass(frozen=True)
class Row:
    """Row of the table: a number, its goal, and the values that it was computed from."""

    case: str
    """Description of what was measured, and against what."""

    value: float | None
    """Result; for a ratio, the median over the pairs. None: not measured; the note says why."""

    unit: Ratio | Literal["memory", "copies", "bytes"]
    """Unit of the value. time, speed, memory: ours over theirs; share: a part over the whole; copies (of the
    parameters) and bytes: ours minus theirs."""

    goal: float | None = None
    """Bound that the value is to meet; None: shown without a goal."""

    lower: float | None = None
    """Lower quartile over the pairs; None for a value that does not vary."""

    upper: float | None = None
    """Upper quartile, likewise."""

    ours: float | None = None
    """Our side of the comparison: median seconds per call (per step, if the note tells steps/s), or bytes."""

    theirs: float | None = None
    """Other side of the comparison."""

    note: str = ""
    """Remark that the reader needs beside the value."""

    measurement: str = ""
    """Name of the measurement, as `--only` takes it; the command fills it in."""

    @property
    def bound(self) -> Literal["at most", "at least"]:
        """Side of the goal on which it is met."""
        return "at least" if self.unit == "speed" else "at most"

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, or if nothing was measured."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.bound == "at most" else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return all fields, `bound` and `met`."""
        name = {"measurement": self.measurement}
        return {**name, **asdict(self), "bound": self.bound, "met": self.met}

    def noted(self, text: Callable[[float, float], str]) -> Row:
        """Return the row with a note about both sides; without it, if nothing was measured.

        Args:
            text: Function from `ours` and `theirs` to the note.
        """
        if self.ours is None or self.theirs is None:
            return self
        return replace(self, note=text(self.ours, self.theirs))


def ratio_row(
    case: str,
    unit: Ratio,
    ours: Sequence[float],
    theirs: Sequence[float],
    goal: float | None = None,
    *,
    note: str = "",
    steps: tuple[int, int] | None = None,
) -> Row:
    """Return the row of a ratio, computed pair by pair.

    Args:
        case: Case of the row.
        unit: Ratio to compute: our time (or a part's share of it) over theirs, or our speed over theirs.
        ours: Seconds of each of our turns, round by round.
        theirs: Seconds of each of their turns, likewise.
        goal: Goal of the row.
        note: Note of the row.
        steps: Steps per turn on both sides. The row has seconds per step, and its note both rates.

    Raises:
        ValueError: if there are no pairs, or the two sides differ in length.
    """
    if steps is not None:
        ours, theirs = (
            [s / n for s in side] for side, n in zip((ours, theirs), steps, strict=True)
        )
    medians = statistics.median(ours), statistics.median(theirs)
    if steps is not None:
        rates = " / ".join(f"{1 / median:.0f}" for median in medians)
        note = f"{note}; {rates} steps/s" if note else f"{rates} steps/s"
    pairs = zip(ours, theirs, strict=True)
    found = quartiles([b / a if unit == "speed" else a / b for a, b in pairs])
    return Row(case, found.median, unit, goal, found.lower, found.upper, *medians, note)


_TITLES = {
    "time": "our time / theirs",
    "speed": "our speed / theirs",
    "share": "share of the time",
    "memory": "our peak memory / theirs",
    "copies": "copies of the parameters",
    "bytes": "bytes",
}


def table_of(rows: Sequence[Row]) -> Table:
    """Return a table of the rows for a terminal, grouped by measurement."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", min_width=26)
    for heading in ("result", "quartiles", "goal", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for (name, unit), group in groupby(rows, key=lambda row: (row.measurement, row.unit)):
        table.add_row(f"[bold]{name}[/]: {_TITLES[unit]}")
        for row in group:
            table.add_row(*_cells(row))
        table.add_section()
    return table


def _cells(row: Row) -> tuple[str, ...]:
    case = f"  {row.case}" + (f" ({row.note})" if row.note else "")
    quartiles = "" if row.lower is None else f"{row.lower:.3f} … {row.upper:.3f}"
    digits = 0 if row.unit == "bytes" else 3
    value = "" if row.value is None else f"{row.value:.{digits}f}"
    sign = "≤" if row.bound == "at most" else "≥"
    goal = "" if row.goal is None else f"{sign} {row.goal:g}"
    verdict = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[row.met]
    return escape(case), value, quartiles, goal, verdict
