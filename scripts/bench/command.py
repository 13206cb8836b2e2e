"""Command `plasticity bench`: ours against the alternatives, interleaved in one run, as ratios."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from plasticity.checks import require_integer, require_known
from plasticity.scripts.bench.ant import ant_environment, ant_vector
from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.compiled import compiled
from plasticity.scripts.bench.hardware import describe_hardware
from plasticity.scripts.bench.kernels import kernels
from plasticity.scripts.bench.limits import limits
from plasticity.scripts.bench.memory import memory
from plasticity.scripts.bench.methods import methods
from plasticity.scripts.bench.mitigations import mitigations
from plasticity.scripts.bench.mujoco_ant import mujoco_vector
from plasticity.scripts.bench.parallel import parallel
from plasticity.scripts.bench.ppo import ppo_parts, ppo_tracking, ppo_training
from plasticity.scripts.bench.published import published
from plasticity.scripts.bench.rows import Row, table_of
from plasticity.scripts.bench.stacked import stacked_ants, stacked_images
from plasticity.scripts.bench.steps import optimizer_step, step_cnn, step_mlp
from plasticity.scripts.bench.timing import torch_threads
from plasticity.scripts.bench.trainer import tracking, trainer
from plasticity.scripts.run.versions import versions

MEASUREMENTS: dict[str, Callable[[Effort], Iterable[Row]]] = {
    each.__name__: each
    for each in (
        *(step_cnn, step_mlp, optimizer_step, memory, trainer, tracking, parallel),
        *(ant_environment, ant_vector, mujoco_vector, ppo_training, ppo_parts, ppo_tracking),
        *(limits, compiled, stacked_images, stacked_ants, kernels, mitigations, methods),
        published,
    )
}
"""Measurements by the name that `--only` takes, in the order in which they run."""


@dataclass(frozen=True)
class BenchOptions:
    """Measure ours against the alternatives, in turns on one machine, and print the ratios.

    Other load on the machine disturbs both sides alike but spreads the ratios: look at the
    quartiles. Rows are written as they come: a long run that is cut off loses none.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a name is unknown, a number is out of range, or the device does not exist.
    """

    only: tuple[str, ...] = ()
    """Measurements: step_cnn, step_mlp, optimizer_step, memory, trainer, tracking, parallel,
    ant_environment, ant_vector, mujoco_vector, ppo_training, ppo_parts, ppo_tracking, limits,
    compiled, stacked_images, stacked_ants, kernels, mitigations, methods, published. All of them by
    default."""

    rounds: int | None = None
    """Rounds of turns in each comparison. None: each measurement's own default."""

    threads: int = 1
    """Threads of torch on a CPU. (parallel, ant_*, mujoco_vector and ppo_* choose their own number.)"""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device to measure on. (parallel, ant_*, mujoco_vector and ppo_* always run on the CPU.)"""

    quick: bool = False
    """Small sizes and few rounds: checks in half a minute that everything runs, but measures nothing."""

    out: Path = Path("bench.json")
    """File for the rows, the machine and the versions, as JSON."""

    def __post_init__(self) -> None:
        for name in self.only:
            require_known("measurement", name, MEASUREMENTS)
        if self.rounds is not None:
            require_integer("rounds", self.rounds, minimum=1)
        require_integer("threads", self.threads, minimum=1)
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be 'cpu' or 'cuda': {self.device!r}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but torch finds no CUDA device: pass --device cpu.")


def bench(options: BenchOptions, console: Console | None = None) -> int:
    """Run `plasticity bench`.

    Args:
        options: Options of the command.
        console: Console for the table; None prints to the standard output.

    Returns:
        The exit code: 0 even if a goal is missed, which the table and the file show.

    Raises:
        ValueError: if the file cannot be written.
    """
    console = console or Console(highlight=False)
    begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
    started = time.perf_counter()
    _write(options.out, "")  # fail now rather than after several minutes
    effort = Effort(options.device, options.quick, options.rounds)
    rows: list[Row] = []
    report: dict[str, Any] = {
        "date": begun,
        "hardware": describe_hardware(options.device),
        "versions": versions(),
        "threads": options.threads,
        "quick": options.quick,
        "rounds": options.rounds,
    }

    def write() -> None:
        report["seconds"] = round(time.perf_counter() - started, 1)
        report["rows"] = [row.to_json() for row in rows]
        _write(options.out, json.dumps(report, indent=2, allow_nan=False) + "\n")

    with torch_threads(options.threads):
        for name, measurement in MEASUREMENTS.items():
            if not options.only or name in options.only:
                with console.status(f"{name} …"):
                    for row in measurement(effort):
                        rows.append(replace(row, measurement=name))
                        write()  # a measurement that is stopped leaves what it has
    write()
    _print(console, rows, report, options)
    return 0


def _print(
    console: Console, rows: Sequence[Row], report: dict[str, Any], options: BenchOptions
) -> None:
    hardware = report["hardware"]
    console.print(table_of(rows))
    console.print(
        f"{hardware.get('gpu', hardware['cpu'])}, {hardware['cores']} cores, threads: "
        f"{options.threads}; torch {report['versions'].get('torch')}; {report['seconds']:.0f} s.",
        markup=False,
    )
    if options.quick:
        console.print("--quick measures nothing: run without it for figures.")
    missed = sum(row.met is False for row in rows)
    bounded = sum(row.met is not None for row in rows)
    console.print(f"{bounded - missed} of {bounded} goals met. Written to {options.out}.")


def _write(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--out {file} cannot be written: {error.strerror}. Pass a path that you can write to."
        ) from error
