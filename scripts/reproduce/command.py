"""Command `plasticity reproduce`: a figure's runs, the verdict on its claim, and its picture."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.command_line import chosen_presets, parse_options
from plasticity.scripts.config.imports import take_imports
from plasticity.scripts.config.options import RunOptions, default_options
from plasticity.scripts.config.settings_by_option import require_meaning
from plasticity.scripts.report.run_folders import read_run
from plasticity.scripts.reproduce.arms import Arm
from plasticity.scripts.reproduce.conclusion import conclude, print_conclusion
from plasticity.scripts.reproduce.estimate import estimate_times
from plasticity.scripts.reproduce.figure import FIGURES, SCALES, Figure, require_figure
from plasticity.scripts.reproduce.page import write_page
from plasticity.scripts.reproduce.record import folder_of, load_all
from plasticity.scripts.reproduce.results import Results
from plasticity.scripts.run.command import run_all
from plasticity.scripts.run.jobs import Job

OUT = Path("runs") / "reproduce"
"""Folder of all figures, by default; one has OUT/NAME/SCALE, with its runs below."""

USAGE = """usage: plasticity reproduce list [--out OUT] [--import MODULE …]
       plasticity reproduce NAME [--scale small|full] [--seeds SEEDS] [--jobs N] [--out OUT] [OPTIONS]
       plasticity reproduce all [the same]
       plasticity reproduce NAME --estimate [the same]

`list` shows the figures, each with its paper, its claim, its time and its last result in OUT. `all` runs one
after another, and skips what is finished. `--estimate` trains one run of each arm for some seconds, and tells
how long all of them will take here. OUT/figures.html shows all results. Figures of your own are those of a
module that --import names, after NAME."""


@dataclass(frozen=True)
class _Plan:
    """Runs of one figure that a command line asks for."""

    figure: Figure
    options: RunOptions
    scale: str
    given: Sequence[str]
    """Names of the settings that were typed."""
    jobs: Sequence[tuple[Arm, Sequence[Job]]]
    """Arms with their runs."""


def reproduce(arguments: Sequence[str], command: str | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows `plasticity reproduce`.
        command: Command line that continues the runs, for the message about stopped runs. None: that of the
            arguments.

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
    estimates = "--estimate" in rest
    rest = [word for word in rest if word != "--estimate"]
    names = _all_names() if name == "all" else [name]
    if name == "all" and {"-h", "--help"} & set(rest):
        print(USAGE)
        return 0
    plans = [_plan(require_figure(each), rest, modules) for each in names]
    if estimates:
        for each in plans:
            _estimate(each)
        return 0
    command = command or shlex.join(["plasticity", "reproduce", *arguments])
    failed = 0
    for each in plans:
        if len(plans) > 1:
            print(f"\n== {each.figure.name}", flush=True)
        code = _reproduce(each, command)
        if code > 1:  # stopped by a signal
            return code
        failed = failed or code
    return failed


def _all_names() -> list[str]:
    """Return the names of the figures that need nothing given, and print those of the others."""
    for name, each in FIGURES.items():
        if each.requires:
            print(f"{name} is left out: it needs {each.requires}.")
    return [name for name, each in FIGURES.items() if not each.requires]


def _plan(figure: Figure, rest: Sequence[str], modules: tuple[str, ...]) -> _Plan:
    options, scale, given = _options(figure, rest, modules)
    arms = figure.arms(scale)
    _require_free_settings(figure, arms, given)
    _require_arms(figure, options.methods)
    folder = folder_of(options.out, figure.name, scale)
    return _Plan(figure, options, scale, given, [(arm, arm.jobs(options, folder)) for arm in arms])


def _reproduce(plan: _Plan, command: str) -> int:
    figure, options = plan.figure, plan.options
    chosen = [jobs for arm, jobs in plan.jobs if arm.method in options.methods]
    by_path = {job.path: job for jobs in chosen for job in jobs}  # lines may share a point
    code = run_all(list(by_path.values()), options, command)
    if code:
        return code
    if not set(figure.methods) <= set(options.methods):
        compared = ", ".join(figure.methods)
        print(f"No verdict: {figure.name} compares {compared}. Leave --methods out.")
        return 0
    results = Results([(arm, [read_run(job.path) for job in jobs]) for arm, jobs in plan.jobs])
    record, paths = conclude(figure, results, options, plan.scale, plan.given)
    print_conclusion(record)
    print("Written:", *paths, write_page(options.out), sep="\n  ")
    return 0


def _estimate(plan: _Plan) -> None:
    times = estimate_times(plan.jobs)
    device = plan.jobs[0][1][0].config.device
    for each in times:
        settings = " ".join(f"{option}={value}" for option, value in each.arm.settings.items())
        print(
            f"  {each.arm.name} {settings}: {each.num_runs} runs of {each.seconds / 60:.3g} minutes"
        )
    minutes = sum(each.num_runs * each.seconds for each in times) / 60
    where = f"{plan.figure.name}, scale {plan.scale}, on {device}"
    print(f"{where}: about {minutes:.3g} minutes, one run after another")


def _options(
    figure: Figure, rest: Sequence[str], modules: tuple[str, ...]
) -> tuple[RunOptions, str, list[str]]:
    """Return the options, the scale, and the names of the settings that were typed."""
    benchmark = figure.config.benchmark
    presets = chosen_presets(BENCHMARKS[benchmark], rest)
    defaults = default_options(benchmark, presets)
    defaults = replace(
        defaults,
        out=OUT,
        seeds=tuple(range(figure.num_seeds)),
        config=replace(defaults.config, imports=modules),
    )
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
                f" with plasticity run {figure.config.benchmark}."
            )


def _require_arms(figure: Figure, methods: Sequence[str]) -> None:
    others = [each for each in methods if each not in figure.methods]
    if others:
        raise ValueError(
            f"{figure.name} compares {', '.join(figure.methods)}, and has no arm of {', '.join(others)}:"
            f" leave --methods out, or train others with plasticity run {figure.config.benchmark} --methods"
            f" {' '.join(others)}."
        )


# ---- the list ---------------------------------------------------------------------------------------


def _list(rest: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="plasticity reproduce list", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the figures")
    out = parser.parse_args(rest).out
    for name, each in FIGURES.items():
        time = "" if each.minutes is None else f"\n  time: {each.minutes:g} core-minutes (small)"
        print(f"{name}\n  {each.number} of: {each.paper}\n  claim: {each.claim}{time}")
        if each.requires:
            print(f"  needs: {each.requires}")
        found, broken = load_all(out, [name], SCALES)
        for record, _ in found:
            print(f"  {record.scale}: {record.in_short}")
        for message in broken:
            print(f"  broken: {message}")
    return 0
