"""Command `plasticity reproduce`: a figure's runs, the verdict on its claim, and its picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.command_line import chosen_presets, parse_options
from plasticity.scripts.config.imports import take_imports
from plasticity.scripts.config.nested import to_plain
from plasticity.scripts.config.options import RunOptions, default_options
from plasticity.scripts.config.settings_by_option import require_meaning, settings_by_option
from plasticity.scripts.report.run_folders import read_run
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.figure import FIGURES, SCALES, Figure, require_figure
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.reproduce.verdict import Verdict
from plasticity.scripts.run import atomic_files
from plasticity.scripts.run.atomic_files import explained
from plasticity.scripts.run.command import run_all
from plasticity.scripts.run.versions import made_by

OUT = Path("runs") / "reproduce"
"""Folder of all figures, by default; one has OUT/NAME/SCALE, with its runs below."""

USAGE = """usage: plasticity reproduce list [--out OUT] [--import MODULE …]
       plasticity reproduce NAME [--scale small|full] [--seeds SEEDS] [--jobs N] [--out OUT] [OPTIONS]

`list` shows the figures, each with its paper, its claim, and its last result in OUT. Figures of your own are
those of a module that --import names, after NAME.
`plasticity reproduce NAME --help` tells the options of a figure, which are those of its runs."""


def reproduce(arguments: Sequence[str], command: str = "the same command") -> int:
    """Run the command.

    Args:
        arguments: What follows `plasticity reproduce`.
        command: Command line that continues the runs, for the message about stopped runs.

    Returns:
        The exit code: 0 once there is a verdict, whatever it is; else as `plasticity run`.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be satisfied.
    """
    modules, given_words = take_imports(arguments, "plasticity reproduce")
    name, *rest = given_words or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "list":
        return _list(rest)
    figure = require_figure(name)
    options, scale, given = _options(figure, rest, modules)
    arms = figure.arms(scale)
    _require_free_settings(figure, arms, given)
    folder = options.out / name / scale
    planned = [(arm, arm.jobs(options, folder)) for arm in arms]
    chosen = [jobs for arm, jobs in planned if arm.method in options.methods]
    by_path = {job.path: job for jobs in chosen for job in jobs}  # lines may share a point
    code = run_all(list(by_path.values()), options, command)
    if code:
        return code
    if not set(figure.methods) <= set(options.methods):
        print(f"No verdict: {name} compares {', '.join(figure.methods)}. Leave --methods out.")
        return 0
    results = Results([(arm, [read_run(job.path) for job in jobs]) for arm, jobs in planned])
    _conclude(figure, results, options, scale, given)
    return 0


def _options(
    figure: Figure, rest: Sequence[str], modules: tuple[str, ...]
) -> tuple[RunOptions, str, list[str]]:
    """Return the options, the scale, and the names of the settings that were typed."""
    benchmark = BENCHMARKS[figure.name]
    presets = chosen_presets(benchmark, rest)
    defaults = default_options(figure.name, presets)
    defaults = replace(defaults, out=OUT, config=replace(defaults.config, imports=modules))
    options, _, given = parse_options(
        defaults,
        rest,
        program=f"plasticity reproduce {figure.name}",
        description=_description(figure),
    )
    require_meaning(options, given)
    return options, presets.get("scale", SCALES[0]), given


def _description(figure: Figure) -> str:
    return (
        f"{figure.number} of: {figure.paper}\n\nThe claim: {figure.claim}.\n\nThe runs are in"
        " OUT/NAME/SCALE/SETTINGS/…, the picture and the verdict in OUT/NAME/SCALE. The same command again"
        " continues unfinished runs exactly and skips finished ones."
    )


def _require_free_settings(figure: Figure, arms: Sequence[Arm], given: Collection[str]) -> None:
    varied = {option for arm in arms for option in arm.settings}
    for option in given:
        if option in varied:
            raise ValueError(
                f"--{option} is what the arms of {figure.name} differ in: leave it out, or train single arms"
                f" with plasticity run {figure.name}."
            )


def _conclude(
    figure: Figure, results: Results, options: RunOptions, scale: str, given: Sequence[str]
) -> None:
    """Judge, draw, save and print."""
    from plasticity.scripts.report.figures import to_png  # noqa: PLC0415  (matplotlib)

    seeds = len(set(options.seeds))
    verdict = Verdict(
        figure.requirements(results), figure.claims(results), seeds >= figure.min_seeds
    )
    caption = _caption(figure, results, verdict, scale, seeds)
    settings = settings_by_option(options)
    saved = {
        "figure": figure.name,
        "paper": figure.paper,
        "number": figure.number,
        "claim": figure.claim,
        "scale": scale,
        "seeds": list(options.seeds),
        "settings": {option: to_plain(settings[option].value) for option in given},
        **verdict.to_json(),
        "diverged": _diverged(results),
        "caption": caption,
        "date": datetime.now(timezone.utc).date().isoformat(),
        **made_by(),
    }
    folder = options.out / figure.name / scale
    picture, record = folder / f"{figure.name}.png", _record(options.out, figure.name, scale)
    with explained(folder):
        atomic_files.write_whole(picture, to_png(figure.draw(results, caption)))
        atomic_files.write_whole(record, json.dumps(saved, indent=2).encode() + b"\n")
    _print(verdict, saved)
    print(f"Written:\n  {picture}\n  {record}")


def _caption(figure: Figure, results: Results, verdict: Verdict, scale: str, seeds: int) -> str:
    return (
        f"{figure.name} ({figure.number} of: {figure.paper}), scale {scale}, {seeds} seeds, bands and"
        f" intervals 95 %. Came out: {figure.sentence(results)}. The paper: {figure.claim}. Verdict:"
        f" {verdict.outcome}."
    )


def _diverged(results: Results) -> list[str]:
    return [
        str(run.path) for _, runs in results.arms for run in runs if run.diverged_at is not None
    ]


def _print(verdict: Verdict, saved: Mapping[str, Any]) -> None:
    print(f"\n{saved['caption']}\n")
    for title, checks in (
        ("What the plain arm must reach:", verdict.requirements),
        ("What must be seen:", verdict.claims),
    ):
        print(title)
        for each in checks:
            print(f"  {each}")
    for path in saved["diverged"]:
        print(f"diverged, and left out: {path}")
    print(f"\nVerdict: {verdict.outcome}")


# ---- the list ---------------------------------------------------------------------------------------


def _record(out: Path, name: str, scale: str) -> Path:
    return out / name / scale / f"{name}.json"


def _list(rest: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="plasticity reproduce list", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures")
    out = parser.parse_args(rest).out
    for name, each in FIGURES.items():
        print(f"{name}\n  {each.number} of: {each.paper}\n  claim: {each.claim}")
        for scale in SCALES:
            file = _record(out, name, scale)
            if file.exists():
                print(f"  {scale}: {_last_result(file)}")
    return 0


def _last_result(file: Path) -> str:
    try:
        saved = json.loads(file.read_text())
        return f"{saved['outcome']} ({saved['date']}, {len(saved['seeds'])} seeds)"
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is not the result of a figure ({error}): remove it.") from error
