"""Command `plasticity status`: which runs of a folder are done, and what is left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from plasticity.scripts.report.command import WIDTH_ELSEWHERE
from plasticity.scripts.report.provenance import continue_commands
from plasticity.scripts.report.run_folders import Run, find_runs
from plasticity.scripts.run.folder import FAILURE
from plasticity.scripts.run.locks import is_locked

STALE_SECONDS = 24 * 3600
"""Age of the last change from which an unfinished run that no process holds is called stale."""

STATES = ("finished", "diverged", "running", "failed", "stopped", "stale")
"""States of a run, in the order of the table's columns."""


@dataclass(frozen=True)
class StatusConfig:
    """Tell which runs of a folder are finished, running, failed, stopped or stale, and how to go on.

    A run is running while a process holds its lock, on this machine or, where the file system shares locks,
    on another. One that failed was ended by an error, which is given. One that is stopped has a checkpoint
    that continues exactly; it is stale if nothing has changed for a day. Times left are extrapolated from
    the rows.
    """

    folder: tyro.conf.Positional[Path]
    """Folder that contains runs, at any depth: the --out of `plasticity run`."""


@dataclass(frozen=True)
class RunStatus:
    """Progress of one run."""

    run: Run
    """The run."""

    state: str
    """One of `STATES`."""

    seconds: float
    """Time of its rows, in seconds, as its timings have it."""

    seconds_left: float | None
    """Time that the rest takes at this speed; None if there is no row yet."""


def status(config: StatusConfig) -> list[RunStatus]:
    """Print the states of all runs, by benchmark and method, and the commands that continue them.

    Returns:
        The state of each run, in the order of their paths.

    Raises:
        ValueError: if there are no runs, or a file of one is broken.
    """
    found = [status_of(run) for run in find_runs(Path(config.folder))]
    width = None if sys.stdout.isatty() else WIDTH_ELSEWHERE
    console = Console(width=width, highlight=False, emoji=False, markup=False)
    console.print(_table(found))
    for error, runs in _failures(found).items():
        first, *others = runs
        console.print(
            f"failed: {first}{f' and {len(others)} more' if others else ''}: {error}",
            soft_wrap=True,
        )
    stopped = [each for each in found if each.state in ("failed", "stopped", "stale")]
    left = sum(each.seconds_left or 0.0 for each in found)
    if left:
        console.print(f"Left: about {_duration(left)} of computing, one run after another.")
    for command in continue_commands([each.run for each in stopped]):
        console.print(f"  {command}", soft_wrap=True)
    return found


def status_of(run: Run) -> RunStatus:
    """Return the progress of a run."""
    seconds = _seconds(run.path / "timings.jsonl")
    done = run.axis.done_at(max(run.regular_positions, default=-1)) if run.rows else 0
    left = None
    if run.finished:
        left = 0.0
    elif done:
        left = seconds * max(0, run.planned - done) / done
    return RunStatus(run, _state(run), seconds, left)


def _state(run: Run) -> str:
    if run.diverged_at is not None:
        return "diverged"
    if run.finished:
        return "finished"
    if is_locked(run.path / "lock"):
        return "running"
    if (run.path / FAILURE).exists():
        return "failed"
    files = [run.path / name for name in ("metrics.jsonl", "checkpoint.pt", "config.json")]
    latest = max(file.stat().st_mtime for file in files if file.exists())
    return "stale" if time.time() - latest > STALE_SECONDS else "stopped"


def _failures(found: Sequence[RunStatus]) -> dict[str, list[Path]]:
    """Return the folders of the runs that failed, by the last line of what ended them."""
    failures: dict[str, list[Path]] = {}
    for each in found:
        if each.state == "failed":
            text = (each.run.path / FAILURE).read_text(encoding="utf-8", errors="replace")
            failures.setdefault(text.rstrip().rpartition("\n")[2], []).append(each.run.path)
    return failures


def _seconds(timings: Path) -> float:
    """Return the sum of a file of timings; 0 if it was deleted. An incomplete last line is left out."""
    if not timings.exists():
        return 0.0
    total = 0.0
    for line in timings.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            total += float(json.loads(line)["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return total


def _table(found: Sequence[RunStatus]) -> Table:
    shown = [state for state in STATES if any(each.state == state for each in found)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("benchmark, method")
    for heading in ("runs", *shown, "done", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    groups: dict[tuple[str, str], list[RunStatus]] = {}
    for each in found:
        groups.setdefault((each.run.benchmark, each.run.method), []).append(each)
    for (benchmark, method), members in groups.items():
        counts = [sum(each.state == state for each in members) for state in shown]
        left = [each.seconds_left for each in members]
        known = [each for each in left if each is not None]
        text = "?" if len(known) < len(left) else _duration(sum(known)) if sum(known) else ""
        table.add_row(
            f"{benchmark}, {method}",
            str(len(members)),
            *(str(count) if count else "" for count in counts),
            f"{100 * _share(members):.0f} %",
            text,
        )
    return table


def _share(members: Sequence[RunStatus]) -> float:
    """Return the part of the planned rows that is done."""
    planned = sum(each.run.planned for each in members)
    done = 0
    for each in members:
        run = each.run
        reached = run.axis.done_at(max(run.regular_positions, default=-1)) if run.rows else 0
        done += run.planned if run.finished else reached
    return min(1.0, done / planned) if planned else 1.0


def _duration(seconds: float) -> str:
    """Format a time: 40 s, 12 min, 3.5 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
