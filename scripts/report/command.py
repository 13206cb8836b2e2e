"""Command `plasticity report`: results of runs as tables, figures, and one page."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import tyro
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

import plasticity.scripts.reproduce  # noqa: F401  (registers figures, whose runs it reports too)
from plasticity.checks import require_integer, require_known
from plasticity.scripts.folders.archive import is_archive
from plasticity.scripts.report.across import Across, across, across_notes, across_table
from plasticity.scripts.report.across_figures import draw_across
from plasticity.scripts.report.comparison import (
    Comparison,
    Criterion,
    baseline_names,
    compare,
)
from plasticity.scripts.report.contents import draw_figures
from plasticity.scripts.report.costs import Costs, benchmark_costs, costs_across, read_costs
from plasticity.scripts.report.differences import DIFFERENCES_NOTE, differences_table
from plasticity.scripts.report.metric_names import Moment, resolve
from plasticity.scripts.report.page import page
from plasticity.scripts.report.panels import for_papers
from plasticity.scripts.report.provenance import continue_commands
from plasticity.scripts.report.run_folders import Run
from plasticity.scripts.report.significance import significance_notes, significance_table
from plasticity.scripts.report.sources import Source, open_sources, runs_by_benchmark
from plasticity.scripts.report.statistics import require_confidence
from plasticity.scripts.report.tables import Cell, Table, best_table, metric_table, task_table

WIDTH_ELSEWHERE = 100
"""Width of the tables, in characters, where the output is not a terminal."""

NAME_WIDTH = 12  # characters that a method's name and its details need at least
LONG_NAME_WIDTH = 24  # characters that they get in a table that is shown in parts

MAX_TASK_ROWS = 10
"""Largest number of tasks for which the terminal shows a row per task."""


@dataclass(frozen=True)
class ReportConfig:
    """Compare the methods in folders of runs: tables, figures, and a page with both.

    Writes report.html, a page with interactive figures and sortable tables that needs no other file and no
    network, and every figure as PNG and PDF. Runs may be unfinished.

    A benchmark that several folders have counts as one for each, named FOLDER/BENCHMARK: presets of it can be
    reported together. To compare its runs from several machines, `plasticity collect` them first.

    Raises:
        TypeError: if the confidence or the number of tasks to skip is not a number.
        ValueError: if one of them is out of range, the moment is unknown, or it is not known where to write.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that contain runs, at any depth: the --out of `plasticity run`; or compressed files
    (.tar.xz) that `plasticity collect` wrote."""

    baseline: str | None = None
    """Method that the others are compared with, seed by seed, on the benchmarks that have it. None:
    weight-decay if it was run, otherwise the method "none"."""

    methods: tuple[str, ...] = ()
    """Methods to compare, the baseline among them (a combination by its name, layer-norm+syre). Without any:
    all that were run."""

    metrics: tuple[str, ...] = ()
    """Metrics to print instead of the headline ones; a name without a layer selects all its layers.
    The page always shows every metric."""

    by: tuple[str, ...] = ()
    """Metric that methods and settings are compared by, with its layer if it has one: of several, the first
    that a benchmark has. None: the test accuracy, the return, or what else there is."""

    moment: Moment | None = None
    """Moment at which they are compared by it: the last task (or step), or the average over all. None: the
    average of a return or an online loss, the last of others."""

    skip: int = 0
    """Number of tasks at the beginning that averages leave out; of runs without tasks, of steps."""

    confidence: float = 0.95
    """Confidence level of the intervals over seeds, from 0.5 to below 1."""

    costs: Path | None = None
    """File that `plasticity bench --only methods --out FILE` wrote: figures of what methods bring over what
    a step of them takes. None: no such figures."""

    out: Path | None = None
    """Folder to write to, created if missing. None: the folder of runs, where there is only one."""

    def __post_init__(self) -> None:
        require_confidence(self.confidence)
        require_integer("--skip", self.skip, minimum=0)
        if self.moment is not None:
            require_known("--moment", self.moment, get_args(Moment))
        if self.out is None and (len(self.folders) > 1 or any(map(is_archive, self.folders))):
            raise ValueError(
                "There is not one folder of runs to write the report to: name one, with --out."
            )


def report(config: ReportConfig) -> list[Path]:
    """Print the tables, and write the figures and the page.

    Args:
        config: Options of the report.

    Returns:
        The paths written, report.html first.

    Raises:
        ValueError: if there are no runs, a file of a run is broken, a name is unknown, or the figures
            and the page cannot be written; if methods cannot be compared by what is wanted.
    """
    with open_sources(config.folders) as sources:
        comparisons = _comparisons(config, sources)
        return _show(config, comparisons)


def _comparisons(config: ReportConfig, sources: Sequence[Source]) -> list[Comparison]:
    by = Criterion(config.by, config.moment, config.skip)
    temporary = tuple(source.folder for source in sources if source.is_unpacked)
    every = _of_methods(runs_by_benchmark(sources), config.methods)
    if config.baseline is not None:
        names = [name for runs in every.values() for name in baseline_names(runs)]
        require_known("baseline", config.baseline, dict.fromkeys(names))
    found = []
    for benchmark, runs in every.items():
        comparison = compare(
            runs, config.baseline, config.confidence, by, benchmark=benchmark, may_lack_it=True
        )
        left = (run for run in comparison.unfinished if not _is_in(run.path, temporary))
        found.append(replace(comparison, unfinished=tuple(left)))
    return found


def _of_methods(every: Mapping[str, list[Run]], methods: Sequence[str]) -> Mapping[str, list[Run]]:
    """Return the runs of these methods, of the benchmarks that have any; all if no method is named."""
    if not methods:
        return every
    known = dict.fromkeys(run.method for runs in every.values() for run in runs)
    for method in methods:
        require_known("method", method, known)
    chosen = {name: [run for run in runs if run.method in methods] for name, runs in every.items()}
    return {name: runs for name, runs in chosen.items() if runs}


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _show(config: ReportConfig, comparisons: Sequence[Comparison]) -> list[Path]:
    known = list(dict.fromkeys(name for each in comparisons for name in each.metrics))
    wanted = resolve(config.metrics, known)
    # Written before anything is printed, so that closing the pipe early (`| head`) loses no figure.
    costs = {} if config.costs is None else read_costs(config.costs)
    found = across(comparisons)
    written = _write(config.out or config.folders[0], comparisons, found, costs)
    console = Console(
        width=None if sys.stdout.isatty() else WIDTH_ELSEWHERE, highlight=False, emoji=False
    )
    if found is not None:
        _print_across(console, comparisons, found)
    for comparison in comparisons:
        shown = [name for name in wanted if name in comparison.metrics]
        _print(console, comparison, shown or comparison.leading_metrics)
    console.print("Written:", style="bold")
    for path in written:
        console.print(Text(f"  {path}"), soft_wrap=True)
    return written


def _write(
    folder: Path, comparisons: Sequence[Comparison], found: Across | None, costs: Costs
) -> list[Path]:
    drawn = {}
    if found is not None:
        drawn["all"] = draw_across(found, comparisons)
        _add_costs(drawn["all"], costs_across(found, costs))
    subjects = _file_names([each.benchmark for each in comparisons])
    for subject, comparison in zip(subjects, comparisons, strict=True):
        drawn[subject] = draw_figures(comparison)
        _add_costs(drawn[subject], benchmark_costs(comparison, costs))
    figures: dict[Path, bytes] = {}
    names = []
    for subject, of_subject in drawn.items():
        own = {
            f"{subject}_{name}.{ending}": content
            for name, figure in of_subject.items()
            for ending, content in for_papers(figure).items()
        }
        names.append(list(own))
        figures |= {folder / name: content for name, content in own.items()}
    files = {folder / "report.html": page(comparisons, found, names).encode("utf-8"), **figures}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content)
    except OSError as error:
        raise ValueError(
            f"Cannot write to {folder} ({error.strerror}): pass --out a folder that you can write to."
        ) from error
    return list(files)


def _add_costs(figures: dict[str, Figure], figure: Figure | None) -> None:
    if figure is not None:
        figures["costs"] = figure


def _file_names(benchmarks: Sequence[str]) -> list[str]:
    """Return beginnings of file names, each another, of benchmarks that may have a folder before the name."""
    names: list[str] = []
    for benchmark in benchmarks:
        name = benchmark.strip("./").replace("/", "_")
        while name in names:
            name += "_"
        names.append(name)
    return names


# ---- the terminal -----------------------------------------------------------------------------------


def _print(console: Console, comparison: Comparison, metrics: Sequence[str]) -> None:
    console.print(Text(f"\n{comparison.benchmark}", style="bold"))
    if comparison.is_sweep:
        console.print(_terminal_table(best_table(comparison), console.width))
    for metric in metrics:
        table = metric_table(comparison, metric, comparison.chosen, full=False)
        console.print(_terminal_table(table, console.width))
    evidence = significance_table(comparison)
    if evidence is not None:
        console.print(_terminal_table(evidence, console.width))
    _print_tasks(console, comparison)
    if comparison.is_sweep:
        console.print(Text(f"All {len(comparison.arms)} arms are in report.html."))
    for note in (*comparison.notes, *significance_notes(comparison)):
        console.print(Text(f"• {note}", style="dim"))
    commands = continue_commands(comparison.unfinished)
    if commands:
        console.print(Text("To continue the unfinished runs:"))
        for command in commands:
            console.print(Text(f"  {command}"), soft_wrap=True)
    console.print()


def _print_across(console: Console, comparisons: Sequence[Comparison], found: Across) -> None:
    tables, notes = [across_table(found)], across_notes(found)
    if (by_benchmark := differences_table(comparisons)) is not None:
        tables += _parts(by_benchmark, console.width)
        notes.append(DIFFERENCES_NOTE)
    for table in tables:
        console.print(_terminal_table(table, console.width))
    for note in notes:
        console.print(Text(f"• {note}", style="dim"))


def _print_tasks(console: Console, comparison: Comparison) -> None:
    table = task_table(comparison)
    if table is None:
        return
    if len(table.rows) <= MAX_TASK_ROWS:
        console.print(_terminal_table(table, console.width))
    else:
        console.print(Text(f"The returns of all {len(table.rows)} tasks are in report.html."))


def _terminal_table(table: Table, width: int) -> TerminalTable:
    values = sum(_width(table, column) for column in range(1, len(table.columns)))
    # An interval broken over two lines is hard to read: if there is room, only names are wrapped.
    fits = values + NAME_WIDTH + 3 * len(table.columns) - 1 <= width
    drawn = TerminalTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        min_width=min(len(table.title), width),
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for column, name in enumerate(table.columns):
        drawn.add_column(
            Text(name),
            justify="right" if column else "left",
            no_wrap=fits and column > 0,
            overflow="fold",
        )
    for row in table.rows:
        drawn.add_row(*map(_terminal_cell, row))
    return drawn


def _parts(table: Table, width: int) -> list[Table]:
    """Return a table of many columns in parts that have room, each with the names of its rows."""
    parts: list[list[int]] = [[]]
    names = min(_width(table, 0), LONG_NAME_WIDTH)
    for column in range(1, len(table.columns)):
        values = sum(_width(table, each) + 3 for each in [*parts[-1], column])
        if parts[-1] and names + values + 2 > width:
            parts.append([])
        parts[-1].append(column)
    return [
        Table(
            table.title,
            tuple(table.columns[each] for each in (0, *columns)),
            tuple(tuple(row[each] for each in (0, *columns)) for row in table.rows),
        )
        for columns in parts
    ]


def _width(table: Table, column: int) -> int:
    """Return the length of the longest line in a column."""
    lines = table.columns[column].splitlines()
    lines += [line for row in table.rows for line in (row[column].text, *row[column].details)]
    return max(map(len, lines), default=0)


def _terminal_cell(cell: Cell) -> Text:
    return Text.assemble(cell.text, *((f"\n{line}", "dim") for line in cell.details))
