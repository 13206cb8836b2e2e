"""`plasticity report`: what runs amount to, in the terminal, as figures, and as one page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from plasticity.scripts.report.comparison import Comparison, compare, continue_commands
from plasticity.scripts.report.contents import draw_figures
from plasticity.scripts.report.figures import to_png
from plasticity.scripts.report.metric_names import headlines, resolve
from plasticity.scripts.report.page import page
from plasticity.scripts.report.run_folders import Run, find_runs
from plasticity.scripts.report.statistics import require_confidence
from plasticity.scripts.report.tables import Cell, Table, best_table, metric_table, task_table

WIDTH_ELSEWHERE = 100
"""Columns of the tables where the output is no terminal."""

NAME_WIDTH = 12  # columns that a method's name and what is said of it need at least

MAX_TASK_ROWS = 10
"""Tasks that the terminal shows a row each of."""


@dataclass(frozen=True)
class ReportConfig:
    """Compare the methods in a folder of runs: tables, figures, and a page with both.

    Writes report.html, which needs no other file, and a PNG for every figure. Runs may be unfinished.

    Raises:
        TypeError: if the confidence is no number.
        ValueError: if the confidence is out of range.
    """

    folder: tyro.conf.Positional[Path]
    """Folder of runs, at any depth: the --out of `plasticity run`."""

    baseline: str | None = None
    """Method that the others are compared with, seed by seed. None: weight-decay if there are runs
    of it, else the method "none"."""

    metrics: tuple[str, ...] = ()
    """Metrics to print in place of the headline ones; a name without a layer means all its layers.
    The page has all of them."""

    confidence: float = 0.95
    """Of the intervals over seeds, 0.5 to below 1."""

    out: Path | None = None
    """Folder to write to, made if missing. None: the folder of runs."""

    def __post_init__(self) -> None:
        require_confidence(self.confidence)


def report(config: ReportConfig) -> list[Path]:
    """Print the tables, and write the figures and the page.

    Args:
        config: What to report on.

    Returns:
        The paths written, report.html first.

    Raises:
        ValueError: if there are no runs, a file of one is broken, a name is unknown, or the figures
            and the page cannot be written.
    """
    groups: dict[str, list[Run]] = {}
    for run in find_runs(Path(config.folder)):
        groups.setdefault(run.benchmark, []).append(run)
    comparisons = [compare(runs, config.baseline, config.confidence) for runs in groups.values()]
    known = list(dict.fromkeys(name for each in comparisons for name in each.metrics))
    wanted = resolve(config.metrics, known)
    # Written before anything is printed: a reader that closes the pipe (`| head`) loses no figure.
    written = _write(Path(config.folder) if config.out is None else config.out, comparisons)
    console = Console(
        width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE, highlight=False, emoji=False
    )
    for comparison in comparisons:
        shown = [name for name in wanted if name in comparison.metrics]
        _print(console, comparison, shown or headlines(comparison.metrics))
    console.print("Written:", style="bold")
    for path in written:
        console.print(Text(f"  {path}"), soft_wrap=True)
    return written


def _write(folder: Path, comparisons: Sequence[Comparison]) -> list[Path]:
    images = [
        {name: to_png(figure) for name, figure in draw_figures(each).items()}
        for each in comparisons
    ]
    files = {folder / "report.html": page(comparisons, images).encode("utf-8")}
    for comparison, drawn in zip(comparisons, images, strict=True):
        for name, png in drawn.items():
            files[folder / f"{comparison.benchmark}_{name}.png"] = png
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"Cannot write to {folder} ({error.strerror}): give --out a folder that you may write to."
        ) from error
    return list(files)


# ---- the terminal -----------------------------------------------------------------------------------


def _print(console: Console, comparison: Comparison, metrics: Sequence[str]) -> None:
    console.print(Text(f"\n{comparison.benchmark}", style="bold"))
    if comparison.is_sweep:
        console.print(_terminal_table(best_table(comparison), console.width))
    for metric in metrics:
        table = metric_table(comparison, metric, comparison.chosen, full=False)
        console.print(_terminal_table(table, console.width))
    _print_tasks(console, comparison)
    if comparison.is_sweep:
        console.print(Text(f"All {len(comparison.arms)} arms are in report.html."))
    for note in comparison.notes:
        console.print(Text(f"• {note}", style="dim"))
    commands = continue_commands(comparison.unfinished)
    if commands:
        console.print(Text("To continue the unfinished runs:"))
        for command in commands:
            console.print(Text(f"  {command}"), soft_wrap=True)
    console.print()


def _print_tasks(console: Console, comparison: Comparison) -> None:
    table = task_table(comparison)
    if table is None:
        return
    if len(table.rows) <= MAX_TASK_ROWS:
        console.print(_terminal_table(table, console.width))
    else:
        console.print(Text(f"The return of each of {len(table.rows)} tasks is in report.html."))


def _terminal_table(table: Table, width: int) -> TerminalTable:
    figures = sum(_width(table, place) for place in range(1, len(table.columns)))
    # An interval broken in two is hard to read: where there is room, only names are.
    fits = figures + NAME_WIDTH + 3 * len(table.columns) - 1 <= width
    drawn = TerminalTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        min_width=min(len(table.title), width),
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for place, name in enumerate(table.columns):
        drawn.add_column(
            Text(name), justify="right" if place else "left", no_wrap=fits and place > 0
        )
    for row in table.rows:
        drawn.add_row(*map(_terminal_cell, row))
    return drawn


def _width(table: Table, place: int) -> int:
    """Of the longest line in a column."""
    lines = table.columns[place].splitlines()
    lines += [line for row in table.rows for line in (row[place].text, *row[place].details)]
    return max(map(len, lines), default=0)


def _terminal_cell(cell: Cell) -> Text:
    return Text.assemble(cell.text, *((f"\n{line}", "dim") for line in cell.details))
