"""Live progress of many runs, with a time estimate; one line where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Messages(Console):
    """Messages of the program, on the standard error stream.

    A run does not end because its reader has gone (`plasticity run … 2>&1 | head`).
    """

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


class TimeLeft:
    """Estimate of the time left, from the work of this call alone.

    Work of earlier calls does not count toward the speed. The speed is the average since the first
    report of a run, as runs of different speed go on side by side and follow each other.

    Args:
        total: Length of all runs in sum.
        done: Progress so far, by run.
    """

    def __init__(self, total: float, done: Mapping[Path, float]) -> None:
        self._total = total
        self._done = dict(done)
        self._first: dict[Path, float] = {}
        self._started: float | None = None

    @property
    def completed(self) -> float:
        """Progress in sum, made by this call and by earlier ones."""
        return sum(self._done.values())

    def note(self, run: Path, value: float, now: float) -> None:
        """Record the progress of a run, at a time in seconds."""
        if self._started is None:
            self._started = now
        self._first.setdefault(run, value)
        self._done[run] = value

    def seconds(self, now: float) -> float | None:
        """Return the seconds left; None as long as there is nothing to estimate them from."""
        worked = sum(self._done[run] - first for run, first in self._first.items())
        if self._started is None or worked <= 0:
            return None
        return (self._total - self.completed) * (now - self._started) / worked


@contextmanager
def live_progress(
    console: Console, totals: Mapping[Path, int], done: Mapping[Path, float], unit: str = "task"
) -> Iterator[Callable[[Path, float], None]]:
    """Show a bar with a time estimate on a terminal; print one line at the start elsewhere.

    Args:
        console: Console to print to.
        totals: Length of each run.
        done: Progress that earlier calls made, by run.
        unit: Unit of the lengths.

    Returns:
        A context that yields a function to call with a run and its progress.
    """
    total = sum(totals.values())
    left = TimeLeft(total, done)
    line = f"{len(totals)} runs, {total} {unit}s"
    if not console.is_terminal:
        earlier = f", {left.completed:g} of them done before" if left.completed else ""
        console.print(f"{line}{earlier}.")
        yield lambda run, value: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.1f} done"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(line, total=total, left="?")
        bars.update(bar, completed=left.completed)

        def on_progress(run: Path, value: float) -> None:
            now = time.monotonic()
            left.note(run, value, now)
            bars.update(bar, completed=left.completed, left=_clock(left.seconds(now)))

        yield on_progress


def _clock(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
