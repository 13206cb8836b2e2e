"""Conclusion of a figure's finished runs: the verdict, the picture and the record."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from plasticity.scripts.config.nested import to_plain
from plasticity.scripts.config.options import RunOptions
from plasticity.scripts.config.settings_by_option import settings_by_option
from plasticity.scripts.reproduce.figure import SCALES, Figure
from plasticity.scripts.reproduce.record import Record, save
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Verdict
from plasticity.scripts.run.versions import made_by


def conclude(
    figure: Figure, results: Results, options: RunOptions, scale: str, given: Sequence[str]
) -> tuple[Record, list[Path]]:
    """Judge the results, draw them, and save both.

    Args:
        figure: The figure.
        results: Its finished runs.
        options: Options of the runs.
        scale: Their size.
        given: Names of the settings that the command gave.

    Returns:
        The record, and the paths of the files that were written.
    """
    from plasticity.scripts.report.panels import to_png  # noqa: PLC0415  (matplotlib)

    seeds = len(set(options.seeds))
    verdict = Verdict(
        figure.requirements(results), figure.claims(results), seeds >= figure.min_seeds
    )
    settings = settings_by_option(options)
    chosen = {option: to_plain(settings[option].value) for option in given}
    runs = {run.path: run for _, arm in results.arms for run in arm}
    record = Record(
        figure=figure.name,
        paper=figure.paper,
        number=figure.number,
        claim=figure.claim,
        scale=scale,
        seeds=list(options.seeds),
        settings=chosen,
        outcome=verdict.outcome,
        requirements=list(verdict.requirements),
        claims=list(verdict.claims),
        sentence=figure.sentence(results),
        diverged=[str(path) for path, run in runs.items() if run.diverged_at is not None],
        minutes=_minutes(runs),
        command=_command(figure, options, scale, chosen),
        date=datetime.now(timezone.utc).date().isoformat(),
        **made_by(),
    )
    picture = to_png(figure.draw(results, caption(record)))
    return record, save(options.out, record, picture)


def caption(record: Record) -> str:
    """Return the text below a figure: what came out, beside what the paper says."""
    return (
        f"{record.figure} ({record.number} of: {record.paper}), scale {record.scale}, {len(record.seeds)}"
        f" seeds, bands and intervals 95 %. Came out: {record.sentence}. The paper: {record.claim}. Verdict:"
        f" {record.outcome}."
    )


def print_conclusion(record: Record) -> None:
    """Print what came out, each condition, and the verdict."""
    print(f"\n{caption(record)}\n")
    for title, checks in (
        ("What the plain arm must reach:", record.requirements),
        ("What must be seen:", record.claims),
    ):
        print(title)
        for each in checks:
            print(f"  {each}")
    for path in record.diverged:
        print(f"diverged, and left out: {path}")
    print(f"\nVerdict: {record.outcome}")


def _minutes(paths: Iterable[Path]) -> float | None:
    """Return the time of runs, of which a stacked one has its share; None if its file was deleted."""
    seconds = 0.0
    for path in paths:
        file = path / "timings.jsonl"
        if not file.exists():
            return None
        entries: list[dict[str, float]] = [
            json.loads(line) for line in file.read_text().splitlines()
        ]
        seconds += sum(each["seconds"] / each.get("stacked", 1) for each in entries)
    return seconds / 60


def _command(figure: Figure, options: RunOptions, scale: str, chosen: dict[str, object]) -> str:
    words = ["plasticity", "reproduce", figure.name]
    if scale != SCALES[0]:
        words += ["--scale", scale]
    words += ["--seeds", *map(str, options.seeds)]
    for option, value in chosen.items():
        words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    for module in options.config.imports:
        words += ["--import", module]
    return shlex.join(words)
