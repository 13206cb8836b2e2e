"""The command `plasticity`."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from plasticity.checks import nearest, require_known
from plasticity.metrics.registry import METRICS
from plasticity.scripts.config.benchmarks import BENCHMARKS, METHODS
from plasticity.scripts.config.options import (
    RunOptions,
    SweepGrid,
    default_options,
    options_from_config,
    sweep_options,
)
from plasticity.scripts.run.command import run, sweep
from plasticity.scripts.run.folder import RunError
from plasticity.scripts.run.progress import Messages

COMMANDS = {
    "run": "train methods on a benchmark, several seeds, resuming what is unfinished",
    "sweep": "the same over a grid of strength x sigma",
    "report": "tables and figures of finished or unfinished runs",
    "video": "a GIF, video or filmstrip of a run's trained ant",
    "list": "benchmarks, methods and metrics, a line each",
    "bench": "measure ours against the alternatives, print ratios",
    "probe": "the plasticity sheet of a saved model, layer by layer",
    "strip": "a Stable-Baselines3 model that loads where this package is not installed",
}
"""What the program does, by the word that follows its name."""


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
    except KeyboardInterrupt:
        Messages().print("plasticity: stopped.")
        code = 130
    except (RunError, ValueError, TypeError, OSError) as error:
        Messages().print(f"plasticity: {error}", style="red")
        code = 2
    sys.exit(code)


def _usage() -> str:
    lines = ["usage: plasticity COMMAND …", "", "commands:"]
    lines += [f"  {name:8s} {description}" for name, description in COMMANDS.items()]
    lines += ["", "`plasticity COMMAND --help` tells the options of each."]
    return "\n".join(lines)


def _dispatch(given: list[str]) -> int:
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("-h", "--help"):
        print(_usage())
        return 0
    require_known("command", command, COMMANDS)
    if command == "list":
        return _list(rest)
    if command in ("report", "video", "probe", "strip"):
        _file_command(command, rest)
        return 0
    if command == "bench":
        from plasticity.scripts.bench.command import BenchOptions, bench  # noqa: PLC0415  (not needed else)

        return bench(tyro.cli(BenchOptions, prog="plasticity bench", args=rest))
    name, options = _run_options(command, rest)
    again = shlex.join([*_program(), *given])
    if isinstance(options, SweepGrid):
        return sweep(name, options, again)
    return run(name, options, again)


def _file_command(command: str, rest: list[str]) -> None:
    """The commands on files that are there."""
    if command == "report":
        from plasticity.scripts.report.command import ReportConfig, report  # noqa: PLC0415  (matplotlib)

        report(tyro.cli(ReportConfig, prog="plasticity report", args=rest))
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
    """How this program was called, to be typed again."""
    script = Path(sys.argv[0])
    if script.name != "plasticity":
        return [sys.executable, "-m", "plasticity.scripts.main"]
    found = shutil.which("plasticity")
    is_found = found is not None and script.exists() and script.samefile(found)
    return ["plasticity" if is_found else str(script)]


def _run_options(command: str, rest: list[str]) -> tuple[str, RunOptions]:
    """Read what gives the other options their defaults first: the benchmark, --config, --agent."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--agent")
    known, rest = first.parse_known_args(rest)
    saved = _read_config(known.config) if known.config else None
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if name is None and saved is not None:
        name = str(saved.get("benchmark"))
    program = f"plasticity {command} {name or 'BENCHMARK'}"
    if name is None:
        if not {"-h", "--help"} & set(rest):
            raise ValueError(
                f"Name a benchmark first: plasticity {command} NAME …{nearest('', BENCHMARKS)}"
            )
        name = next(iter(BENCHMARKS))
    require_known("benchmark", name, BENCHMARKS)
    defaults = _default_options(command, name, known, saved)
    told = SweepGrid if isinstance(defaults, SweepGrid) else type(defaults)
    description = (
        f"{inspect.getdoc(told)}\n\nDefaults of {name}: {BENCHMARKS[name].description}."
        f" Other benchmarks: {', '.join(other for other in BENCHMARKS if other != name)}."
        "\n\nThe defaults may be those of an earlier run: --config FILE takes its config.json."
    )
    options = tyro.cli(
        type(defaults),
        prog=program,
        description=description,
        default=defaults,
        args=rest,
        config=(tyro.conf.FlagConversionOff,),
    )
    return name, options


def _default_options(
    command: str, name: str, known: argparse.Namespace, saved: dict[str, object] | None
) -> RunOptions:
    if saved is None:
        options = default_options(name, known.agent)
    elif known.agent is not None:
        raise ValueError(f"Give --agent {known.agent} or --config {known.config}, not both.")
    else:
        try:
            options = options_from_config(name, saved)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--config {known.config}: {error}") from error
    if command != "sweep":
        return options
    return sweep_options(options, Path("runs") / f"{name}-sweep")


def _read_config(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"--config {file} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise TypeError(f"--config {file} holds no JSON object: give a run's config.json.")
    return content


def _list(rest: list[str]) -> int:
    if {"-h", "--help"} & set(rest):
        print(f"usage: plasticity list\n\n{COMMANDS['list']}")
        return 0
    if rest:
        raise ValueError(f"`plasticity list` takes no arguments: {shlex.join(rest)}.")
    for title, entries in (
        ("benchmarks", {name: each.description for name, each in BENCHMARKS.items()}),
        ("methods", {name: each.description for name, each in METHODS.items()}),
        ("metrics", {name: each.description for name, each in METRICS.items()}),
    ):
        print(f"{title}:")
        for name, description in entries.items():
            print(f"  {name:24s} {description}")
    return 0


if __name__ == "__main__":
    main()
