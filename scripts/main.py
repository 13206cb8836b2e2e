"""Entry point of the command `plasticity`."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from plasticity.agents.networks import NETWORKS
from plasticity.agents.sb3 import ALGORITHMS
from plasticity.checks import nearest, require_known
from plasticity.metrics.registry import METRICS
from plasticity.mitigations import MITIGATIONS, PLAIN
from plasticity.mitigations.base import KINDS
from plasticity.scripts.config.benchmarks import BENCHMARKS, require_benchmark
from plasticity.scripts.config.command_line import (
    SweepOptions,
    chosen_presets,
    first_line,
    parse_options,
)
from plasticity.scripts.config.files import read_config_file
from plasticity.scripts.config.grid import Axis, parse_grid
from plasticity.scripts.config.imports import import_saved, take_imports
from plasticity.scripts.config.nested import require_object
from plasticity.scripts.config.options import (
    RunOptions,
    default_options,
    options_from_config,
)
from plasticity.scripts.config.run_config import RunConfig
from plasticity.scripts.config.settings_by_option import require_meaning
from plasticity.scripts.config.tuned import require_tuned
from plasticity.scripts.reproduce.command import reproduce
from plasticity.scripts.reproduce.figure import FIGURES
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.command import run, sweep
from plasticity.scripts.run.progress import Messages
from plasticity.scripts.tune.options import TUNING_SEEDS, CompareOptions, TuneOptions

COMMANDS = {
    "run": "train methods on a benchmark, several seeds, resuming what is unfinished",
    "sweep": "the same for every combination of a grid of settings",
    "tune": "search each method's settings with the same budget, on the first part of a benchmark",
    "compare": "tune, run on other seeds, and report, as one",
    "reproduce": "figures of the papers: train their runs, judge the claim, draw",
    "status": "which runs of a folder are done, and how to continue the rest",
    "collect": "runs of several folders into one, as from several machines",
    "report": "tables and figures of finished or unfinished runs",
    "card": "a model card of a run: settings, results, plasticity sheet, figures",
    "push": "a run and its card to the Hugging Face Hub",
    "video": "a GIF, video or filmstrip of a run's trained agent",
    "list": "benchmarks, figures, methods, agents, networks and metrics, a line each",
    "bench": "measure ours against the alternatives, print ratios",
    "probe": "the plasticity sheet of a saved model, layer by layer",
    "strip": "a Stable-Baselines3 model that loads where this package is not installed",
}
"""Descriptions of the commands, by name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit.

    An error of the user ends with exit code 2 and one message, Ctrl-C with 130.

    Args:
        arguments: What follows the program's name. None: as it was called.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            code = _dispatch(given)
        except SystemExit as end:  # of tyro, after a help text or a wrong option
            code = int(end.code or 0)
        sys.stdout.flush()  # here, where a closed pipe can be told from an error
    except BrokenPipeError:  # whoever read our output has seen enough: plasticity list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        known = _code_of(error)
        if known is None:
            raise
        code = known
    sys.exit(code)


def _code_of(error: BaseException) -> int | None:
    """Say what ended the command; return the exit code, or None for a fault of this program."""
    cause: BaseException | None = error
    while cause is not None:  # an import that Ctrl-C cuts off can end as an ImportError
        if isinstance(cause, KeyboardInterrupt):
            Messages().print("plasticity: stopped.")
            return 130
        cause = cause.__cause__
    if isinstance(error, (RunError, ValueError, TypeError, OSError)):
        Messages().print(f"plasticity: {error}", style="red")
        return 2
    return None


def _usage() -> str:
    lines = ["usage: plasticity COMMAND …", "", "commands:"]
    lines += [f"  {name:9s} {description}" for name, description in COMMANDS.items()]
    lines += ["", "`plasticity COMMAND --help` tells the options of each."]
    return "\n".join(lines)


def _dispatch(given: list[str]) -> int:
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    require_known("command", command, COMMANDS)
    if command == "list":
        return _list(take_imports(rest, "plasticity list")[1])
    if command in ("status", "collect", "report", "video", "probe", "strip", "card", "push"):
        _file_command(command, rest)
        return 0
    if command == "bench":
        from plasticity.scripts.bench.command import BenchOptions, bench  # noqa: PLC0415  (not needed else)

        return bench(tyro.cli(BenchOptions, prog="plasticity bench", args=rest))
    again = shlex.join([*_program(), *given])
    if command == "reproduce":
        return reproduce(rest, again)
    return _training_command(command, rest, again)


def _training_command(command: str, rest: list[str], again: str) -> int:
    """Run one of the commands that train, and return its exit code."""
    options, axes, extra = _run_options(command, rest)
    if command == "run":
        return run(options, again)
    if command == "sweep":
        return sweep(options, axes, again)
    from plasticity.scripts.tune.command import tune  # noqa: PLC0415  (scipy)
    from plasticity.scripts.tune.compare import compare  # noqa: PLC0415

    searching: Callable[..., int] = {"tune": tune, "compare": compare}[command]
    return searching(options, axes, extra, again)


def _file_command(command: str, rest: list[str]) -> None:
    """Run one of the commands that read existing files."""
    if command == "report":
        from plasticity.scripts.report.command import ReportConfig, report  # noqa: PLC0415  (matplotlib)

        report(tyro.cli(ReportConfig, prog="plasticity report", args=rest))
    elif command == "status":
        from plasticity.scripts.folders.status import StatusConfig, status  # noqa: PLC0415  (matplotlib)

        status(tyro.cli(StatusConfig, prog="plasticity status", args=rest))
    elif command == "collect":
        from plasticity.scripts.folders.collect import CollectConfig, collect  # noqa: PLC0415

        collect(tyro.cli(CollectConfig, prog="plasticity collect", args=rest))
    elif command == "card":
        from plasticity.scripts.share.card import CardConfig, card  # noqa: PLC0415  (matplotlib)

        card(tyro.cli(CardConfig, prog="plasticity card", args=rest))
    elif command == "push":
        from plasticity.scripts.share.push import PushConfig, push  # noqa: PLC0415  (matplotlib)

        push(tyro.cli(PushConfig, prog="plasticity push", args=rest))
    elif command == "video":
        from plasticity.scripts.video.command import VideoConfig, video  # noqa: PLC0415  (gymnasium)

        video(tyro.cli(VideoConfig, prog="plasticity video", args=rest))
    elif command == "strip":
        from plasticity.scripts.probe.strip import StripOptions, strip  # noqa: PLC0415  (Stable-Baselines3)

        strip(tyro.cli(StripOptions, prog="plasticity strip", args=rest))
    else:
        from plasticity.scripts.probe.command import ProbeOptions, probe  # noqa: PLC0415  (Stable-Baselines3)

        probe(tyro.cli(ProbeOptions, prog="plasticity probe", args=rest))


def _program() -> list[str]:
    """Return the words that call this program again."""
    script = Path(sys.argv[0])
    if script.name != "plasticity":
        return [sys.executable, "-m", "plasticity.scripts.main"]
    found = shutil.which("plasticity")
    is_found = found is not None and script.exists() and script.samefile(found)
    return ["plasticity" if is_found else str(script)]


def _run_options(command: str, rest: list[str]) -> tuple[RunOptions, list[Axis], Any]:
    """Read what gives the other options their defaults first: the benchmark, its presets, --config."""
    first = argparse.ArgumentParser(
        prog=f"plasticity {command}", add_help=False, allow_abbrev=False
    )
    first.add_argument("--config", type=Path)
    known, rest = first.parse_known_args(rest)
    modules, rest = take_imports(rest, f"plasticity {command}")
    saved = None if known.config is None else read_config_file(known.config)
    import_saved(saved or {})
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if name is None and saved is not None and "benchmark" in saved:
        name = str(saved["benchmark"])
    program = f"plasticity {command} {name or 'BENCHMARK'}"
    if name is None:
        if not {"-h", "--help"} & set(rest):
            raise ValueError(
                f"Name a benchmark first: plasticity {command} NAME …{nearest('', BENCHMARKS)}"
            )
        name = next(iter(BENCHMARKS))
    defaults = _default_options(name, known.config, saved, rest)
    imports = tuple(dict.fromkeys((*defaults.config.imports, *modules)))
    defaults = replace(defaults, config=replace(defaults.config, imports=imports))
    extra = EXTRAS[command]
    if extra is not None:
        defaults = replace(defaults, out=Path("runs") / f"{name}-{command}")
    if command == "tune":
        defaults = replace(defaults, seeds=TUNING_SEEDS)
    description = _description(command, name)
    options, extra, given = parse_options(
        defaults, rest, program=program, description=description, extra=extra
    )
    require_meaning(options, given)
    if extra is None:
        require_tuned(options, given)
        return options, [], None
    if options.tuned is not None:
        raise ValueError(
            f"--tuned {options.tuned} is for plasticity run: {command} tries settings."
        )
    return options, parse_grid(extra.grid, options, given), extra


EXTRAS: dict[str, Any] = {
    "run": None,
    "sweep": SweepOptions(),
    "tune": TuneOptions(),
    "compare": CompareOptions(),
}
"""Options of its own that each command has, besides those of the runs."""

_PURPOSES = {
    "run": "Train every method with every seed over the benchmark's stream of tasks.",
    "sweep": "Train every method with every seed, for every combination of the settings of a grid.",
    "tune": "Try settings of every method, as many for each, on the first part of the benchmark, and write"
    " the best ones to OUT/tuned.json, for `plasticity run --tuned`.",
    "compare": "Tune every method, train it with its best settings on other seeds, and report.",
}


def _description(command: str, name: str) -> str:
    others = ", ".join(other for other in BENCHMARKS if other != name)
    return (
        f"{_PURPOSES[command]}\n\nThe same command again continues unfinished runs exactly and skips finished"
        " ones; more tasks or steps extend them."
        f"\n\nDefaults of {name}: {require_benchmark(name).description}. Other benchmarks: {others}."
        "\n\nThe defaults may come from a file: --config FILE takes a run's config.json, or a JSON or YAML"
        " file with some of its keys. Methods, networks and benchmarks may come from modules of your own:"
        " --import MODULE … imports them first."
    )


def _default_options(
    name: str, file: Path | None, saved: Mapping[str, Any] | None, rest: Sequence[str]
) -> RunOptions:
    chosen = chosen_presets(require_benchmark(name), rest)
    if saved is None:
        return default_options(name, chosen)
    architecture = chosen.pop("architecture", None)
    if chosen:
        option = next(iter(chosen))
        raise ValueError(f"Give --{option} {chosen[option]} or --config {file}, not both.")
    try:
        if architecture is not None:
            network = require_object(saved.get("network", {}), "network")
            saved = {**saved, "network": {**network, "architecture": architecture}}
        return options_from_config(name, saved)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--config {file}: {error}") from error


def _list(rest: list[str]) -> int:
    lists: dict[str, Callable[[], dict[str, str]]] = {
        "benchmarks": _benchmarks,
        "figures": lambda: {name: f"{e.claim} ({e.number})" for name, e in FIGURES.items()},
        "methods": _methods,
        "agents": _agents,
        "networks": lambda: {name: first_line(kind) for name, kind in NETWORKS.items()},
        "metrics": lambda: {name: each.description for name, each in METRICS.items()},
    }
    if {"-h", "--help"} & set(rest):
        usage = " ".join(f"[--{title}]" for title in lists)
        print(f"usage: plasticity list {usage} [--import MODULE …]\n\n{COMMANDS['list']}")
        return 0
    unknown = [each for each in rest if each not in {f"--{title}" for title in lists}]
    if unknown:
        raise ValueError(
            f"`plasticity list` does not know {shlex.join(unknown)}: give some of"
            f" {', '.join(f'--{title}' for title in lists)}, or none for all."
        )
    for title, entries in lists.items():
        if rest and f"--{title}" not in rest:
            continue
        print(f"{title}:")
        for name, description in entries().items():
            print(f"  {name:24s} {description}".rstrip())
    return 0


def _benchmarks() -> dict[str, str]:
    """Return a line for each benchmark, and below it one for each of its presets that has a description."""
    figures = {each.config.benchmark for each in FIGURES.values()}
    found: dict[str, str] = {}
    for name, benchmark in BENCHMARKS.items():
        if name in figures:
            continue
        found[name] = f"{benchmark.description}; {_size(benchmark.config, benchmark.minutes)}"
        for option, presets in benchmark.presets.items():
            for chosen, each in presets.groups.items():
                if each.description:
                    config = benchmark.with_presets({option: chosen}).config
                    size = _size(config, each.minutes or benchmark.minutes)
                    found[f"  {name} --{option} {chosen}"] = f"{each.description}; {size}"
    return found


def _size(config: RunConfig, minutes: float | None) -> str:
    """Describe the length of a run, and the time of one of the plain optimizer on one core."""
    size = f"{config.length:,} {config.axes[-1]}s"
    return size if minutes is None else f"{size}, {core_time(minutes)} a run"


def core_time(minutes: float) -> str:
    """Return a time on one core in words, to two digits: 0.6 core-minutes, 6.7 core-hours, 230 core-days."""
    units = ((48 * 60, 24 * 60, "day"), (90, 60, "hour"), (0, 1, "minute"))
    size, unit = next((size, unit) for least, size, unit in units if minutes >= least)
    number = f"{float(f'{minutes / size:.2g}'):,g}"
    return f"{number} core-{unit}" if number == "1" else f"{number} core-{unit}s"


def _agents() -> dict[str, str]:
    """Return a line for each agent of a control benchmark, as `--agent` names it."""
    own = {"ppo": "Our own PPO, whose settings may have other names (see a benchmark's --help)."}
    return own | {name: first_line(kind) for name, kind in ALGORITHMS.items()}


def _methods() -> dict[str, str]:
    """Return a line for each method, after a heading for those of its kind."""
    found = {PLAIN: "The plain optimizer."}
    for kind in KINDS:
        own = {name: first_line(each) for name, each in MITIGATIONS.items() if each.kind == kind}
        if own:
            found |= {f"- {kind}": "", **own}
    return found


if __name__ == "__main__":
    main()
