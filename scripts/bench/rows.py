"""Input and output of the measurements of `plasticity bench`: an `Effort`, and rows of the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from plasticity.scripts.bench.timing import Comparison, Quartiles, interleaved, synchronizer


@dataclass(frozen=True)
class Effort:
    """Device and thoroughness of a measurement."""

    device: str = "cpu"
    """Device to measure on: cpu or cuda."""

    quick: bool = False
    """Small sizes and few rounds: checks that everything runs, but measures nothing."""

    rounds: int | None = None
    """Pairs of turns in each comparison; None: each measurement's own default."""

    def size(self, full: int, quick: int) -> int:
        """Return the full size, or the quick one if `quick` is set."""
        return quick if self.quick else full

    def compare(
        self,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        *,
        rounds: int,
        calls: int = 1,
    ) -> Comparison:
        """Time two functions in turns; `rounds` and `calls` are the defaults of a full measurement."""
        return interleaved(
            ours,
            theirs,
            rounds=self.rounds or self.size(rounds, 2),
            calls=self.size(calls, 1),
            synchronize=synchronizer(self.device),
        )


@dataclass(frozen=True)
class Row:
    """Row of the table: a number, its goal, and the values that it was computed from."""

    measurement: str
    """Name of the measurement, as `--only` takes it."""

    case: str
    """Description of what was measured, and against what."""

    value: float | None
    """Result; for a ratio, the median over the pairs. None: not measured; the note says why."""

    unit: Literal["time", "speed", "share", "copies", "bytes"]
    """Unit of the value. time, speed: ours over theirs; share: a part over the whole; copies (of the
    parameters) and bytes: ours minus theirs."""

    goal: float | None = None
    """Bound that the value is to meet; None: shown without a goal."""

    bound: Literal["at most", "at least"] = "at most"
    """Side of the goal on which it is met."""

    lower: float | None = None
    """Lower quartile over the pairs; None for a value that does not vary."""

    upper: float | None = None
    """Upper quartile, likewise."""

    ours: float | None = None
    """Our side of the comparison: median seconds per call, or bytes."""

    theirs: float | None = None
    """Other side of the comparison."""

    note: str = ""
    """Remark that the reader needs beside the value."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, or if nothing was measured."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.bound == "at most" else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and `met`."""
        return {**asdict(self), "met": self.met}


def time_row(
    measurement: str, case: str, comparison: Comparison, goal: float | None, *, note: str = ""
) -> Row:
    """Return the row of our time over theirs; the goal is its upper bound."""
    ratio = comparison.time_ratio
    return _ratio_row(measurement, case, comparison, ratio, "time", goal, "at most", note)


def speed_row(
    measurement: str, case: str, comparison: Comparison, goal: float | None, *, note: str = ""
) -> Row:
    """Return the row of our speed over theirs; the goal is its lower bound."""
    ratio = comparison.speed_ratio
    return _ratio_row(measurement, case, comparison, ratio, "speed", goal, "at least", note)


def _ratio_row(
    measurement: str,
    case: str,
    comparison: Comparison,
    ratio: Quartiles,
    unit: Literal["time", "speed"],
    goal: float | None,
    bound: Literal["at most", "at least"],
    note: str,
) -> Row:
    return Row(
        measurement,
        case,
        ratio.median,
        unit,
        goal=goal,
        bound=bound,
        lower=ratio.lower,
        upper=ratio.upper,
        ours=statistics.median(comparison.ours),
        theirs=statistics.median(comparison.theirs),
        note=note,
    )


_TITLES = {
    "time": "our time / theirs",
    "speed": "our speed / theirs",
    "share": "share of the time",
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
