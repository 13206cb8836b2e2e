"""Command `plasticity card`: a run's model card, with settings, results, plasticity sheet and figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro
import yaml

import plasticity.scripts.reproduce  # noqa: F401  (registers figures, whose runs may be described too)
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import flattened
from plasticity.scripts.config.run_config import MADE_BY
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.contents import draw_figures
from plasticity.scripts.report.metric_names import (
    factor_of,
    family_of,
    headlines,
    layer_of,
    with_unit,
)
from plasticity.scripts.report.panels import to_png
from plasticity.scripts.report.run_folders import Run, find_runs
from plasticity.scripts.run.atomic_files import explained, write_whole

CARD = "README.md"
"""File of a model card, as the Hub expects it."""

PICTURES = ("accuracy", "return", "progress", "ranks")
"""Figures of a report that a card shows, those that the run has."""


@dataclass(frozen=True)
class CardConfig:
    """Write the model card of a run: README.md and its pictures, in the run's folder.

    The card tells the settings, what they differ in from the benchmark's, the results at the beginning and
    the end, the plasticity sheet of every layer, how to repeat the run, and how to load its weights.
    """

    run: tyro.conf.Positional[Path]
    """Folder of one run: OUT/BENCHMARK/METHOD/seed_N."""

    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a card that is there."""


def card(config: CardConfig) -> list[Path]:
    """Write the card of a run and its pictures, and print their paths.

    Returns:
        The paths, README.md first.

    Raises:
        ValueError: if the folder is not that of one run with a row, or cannot be read; or there is a card.
        RunError: if it cannot be written.
    """
    run = the_run(config.run)
    if (run.path / CARD).exists() and not config.force:
        raise ValueError(
            f"{run.path / CARD} exists, and may have been edited: --force replaces it."
        )
    figures = draw_figures(compare([run], None, 0.95))
    pictures = {f"card_{name}.png": to_png(figures[name]) for name in PICTURES if name in figures}
    files = {CARD: model_card(run, [*pictures]).encode(), **pictures}
    for name, content in files.items():
        with explained(run.path / name):
            write_whole(run.path / name, content)
    paths = [run.path / name for name in files]
    print(f"Written: {' '.join(map(str, paths))}")
    return paths


def the_run(folder: Path) -> Run:
    """Read the run of a folder, which must be that of a single one.

    Raises:
        ValueError: if it is not, or if the run has no row yet; the message names the remedy.
    """
    runs = find_runs(folder)
    if len(runs) > 1:
        raise ValueError(
            f"{folder} holds {len(runs)} runs, and this is about one: give its folder, such as"
            f" {runs[0].path}."
        )
    if not runs[0].rows:
        raise ValueError(f"{folder} has no rows yet: let the run finish a task first.")
    return runs[0]


def model_card(run: Run, pictures: Sequence[str]) -> str:
    """Return the card of a run, in Markdown behind a head in YAML.

    Args:
        run: The run; it has a row.
        pictures: Names of the pictures beside the card.
    """
    title = f"{run.method} on {run.benchmark}, seed {run.seed}"
    parts = [
        f"---\n{yaml.safe_dump(_head(run), sort_keys=False)}---",
        f"# {title}",
        _summary(run),
        "## Results",
        _results(run),
        *(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures),
    ]
    if sheet := _sheet(run):
        parts += ["## Plasticity sheet", "At the last row, layer by layer.", sheet]
    parts += ["## Settings", _settings(run), "## Use", _use(run)]
    return "\n\n".join(parts) + "\n"


def _head(run: Run) -> dict[str, object]:
    dataset = run.flat_config.get("stream.dataset")
    tags = ["plasticity", "continual-learning", run.benchmark, *run.config["method"]]
    return {
        "library_name": "plasticity",
        "tags": tags if dataset is None else [*tags, dataset],
    }


def _summary(run: Run) -> str:
    known = BENCHMARKS.get(run.benchmark)
    what = "" if known is None else f": {known.description}"
    axis = run.axis.name
    done = len(run.rows) if axis == "task" else run.rows[-1][axis]
    state = f"{run.planned} {axis}s"
    if run.diverged_at is not None:
        state = f"It diverged in {axis} {run.diverged_at} of {run.planned}: its loss was no longer finite"
    elif not run.finished:
        state = f"{done:g} of {run.planned} {axis}s"
    learner = run.flat_config.get("agent.algorithm")  # of those that are not the benchmark's own
    instead = "" if learner is None else f" Here the learner is `{learner}`."
    return f"A network trained by `plasticity` on `{run.benchmark}`{what}.{instead} {state}."


def _results(run: Run) -> str:
    names = headlines(compare([run], None, 0.95).chosen_metrics)
    lines = []
    for name in names:
        values = [row[name] for row in run.rows if row.get(name) is not None]
        numbers = [float(value) * factor_of(name) for value in values if value is not None]
        if numbers:
            ends = [numbers[0], numbers[-1], fmean(numbers)]
            lines.append([with_unit(name), *(f"{each:.4g}" for each in ends)])
    return _table(["metric", "first row", "last row", "mean of all rows"], lines)


def _sheet(run: Run) -> str:
    """Return the table of the last row's metrics by layer; nothing if it has none."""
    last = {
        name: value for name, value in run.rows[-1].items() if layer_of(name) and value is not None
    }
    families = list(dict.fromkeys(map(family_of, last)))
    layers = list(dict.fromkeys(map(layer_of, last)))
    if not layers:
        return ""
    rows = []
    for layer in layers:
        cells = []
        for family in families:
            value = last.get(f"{family}/{layer}")
            cells.append("" if value is None else f"{float(value) * factor_of(family):.3g}")
        rows.append([layer, *cells])
    return _table(["layer", *map(with_unit, families)], rows)


def _settings(run: Run) -> str:
    """Return the settings: those that are not the benchmark's first, then all."""
    plain = {key: value for key, value in run.config.items() if key not in MADE_BY}
    known = BENCHMARKS.get(run.benchmark)
    usual = {} if known is None else flattened(known.config.to_json())
    own = {
        path: value
        for path, value in flattened(plain).items()
        if path not in ("seed", "device") and (path not in usual or usual[path] != value)
    }
    lines = [[f"`{path}`", f"`{json.dumps(value)}`"] for path, value in own.items()]
    made = [f"{key}: {json.dumps(run.config[key])}" for key in MADE_BY if key in run.config]
    return "\n\n".join(
        [
            "Those that are not the benchmark's own:",
            _table(["setting", "value"], lines) if lines else "none.",
            f"All of them are in `config.json`. Made by {'; '.join(made)}.",
        ]
    )


def _use(run: Run) -> str:
    again = shlex.join(["plasticity", "run", "--config", "config.json", "--out", "again"])
    return (
        f"Repeat the run:\n\n```bash\n{again}\n```\n\nIts weights and everything else that it needs to"
        " continue are in `checkpoint.pt`, which `torch.load` reads (a pickle: load it only if you trust its"
        " author)."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)
