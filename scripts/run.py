"""`plasticity run` and `plasticity sweep`: from options to runs, side by side, with progress."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from plasticity.agents.classifier import ClassifierConfig
from plasticity.agents.networks import NetworkConfig
from plasticity.metrics import DEFAULT_METRICS
from plasticity.scripts import runs
from plasticity.scripts.benchmarks import BENCHMARKS, METHODS
from plasticity.scripts.configuration import ImageRunConfig, require_known
from plasticity.scripts.image_experiment import require_fitting
from plasticity.scripts.pool import Job, Outcome, run_jobs
from plasticity.scripts.progress import Messages, live_progress
from plasticity.settings import nearest, require_integer
from plasticity.tasks import load_dataset

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of devices that a run can use."""


@dataclass(frozen=True)
class RunOptions:
    """Train every method with every seed over the benchmark's stream of tasks.

    The same command again continues what is unfinished and skips what is finished; a larger --tasks
    extends. A killed run continues exactly.
    """

    methods: tuple[str, ...]
    """Methods to compare: none, weight-decay, syre, l2-init, shift (see `plasticity list`)."""

    seeds: tuple[int, ...]
    """One run for each method and seed."""

    tasks: int
    """Tasks in the stream."""

    out: Path
    """Folder of the runs: OUT/BENCHMARK/METHOD/seed_N."""

    strength: float | None = None
    """Of each method's decay, as torch's weight_decay. None: the method's own best, of a search."""

    sigma: float | None = None
    """Spread of syre's anchor, relative to the usual initialisation. None: the best, of a search."""

    anisotropy: float = 0.0
    """Standard deviation of syre's per-coordinate factors (Eq. 7), below 0.577."""

    decoupled: bool | None = None
    """Decay apart from the gradient. None: as the optimizer's own weight decay."""

    data_dir: Path | None = None
    """Folder with the data's four files. None: $PLASTICITY_DATA/NAME, the cache, then a download."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, mps."""

    jobs: int | None = None
    """Runs at once, one thread each. None: the number of cores on a CPU, one on a GPU."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured at each task's end (see `plasticity list`)."""

    probe_size: int = 512
    """Test images that the metrics are measured on."""

    network: Annotated[NetworkConfig, tyro.conf.arg(name="")] = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: Annotated[ClassifierConfig, tyro.conf.arg(name="")] = field(
        default_factory=ClassifierConfig
    )
    """How it is trained."""


@dataclass(frozen=True)
class SweepOptions(RunOptions):
    """Run a grid of strength x sigma: a folder OUT/strength_S_sigma_G/… for each setting.

    Methods without an anchor run once for each strength, methods without a decay once. Otherwise as
    `plasticity run`: the same command again continues, a larger --tasks extends.
    """

    strength: float | None = None
    """Not of a sweep: give --strengths."""

    sigma: float | None = None
    """Not of a sweep: give --sigmas."""

    out: Path = Path("runs/sweep")
    """Folder of the runs: OUT/strength_S_sigma_G/BENCHMARK/METHOD/seed_N."""

    strengths: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    """The grid's strengths."""

    sigmas: tuple[float, ...] = (0.01, 0.1, 0.3, 0.5, 1.0)
    """The grid's sigmas, for methods with an anchor."""


def default_options(benchmark_name: str) -> RunOptions:
    """Options of a benchmark before the user changes any."""
    benchmark = BENCHMARKS[benchmark_name]
    return RunOptions(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        tasks=benchmark.num_tasks,
        out=Path("runs") / benchmark_name,
        probe_size=benchmark.probe_size,
        network=benchmark.network,
        classifier=benchmark.classifier,
    )


def options_from_config(benchmark_name: str, saved: Mapping[str, Any]) -> RunOptions:
    """Options that repeat a saved run: of its one method and seed.

    Args:
        benchmark_name: Of the run to come, which may be another than the saved one.
        saved: As `config.json` holds it.

    Raises:
        ValueError, TypeError: if it is no configuration.
    """
    config = ImageRunConfig.from_json(saved)
    require_known("benchmark", config.benchmark, BENCHMARKS)
    expected = BENCHMARKS[config.benchmark].dataset
    if config.dataset != expected:
        raise ValueError(
            f"dataset must be {expected!r}, that of {config.benchmark}, not {config.dataset!r}."
        )
    return replace(
        default_options(benchmark_name),
        methods=(config.method,),
        seeds=(config.seed,),
        tasks=config.num_tasks,
        strength=config.strength,
        sigma=config.sigma,
        anisotropy=config.anisotropy,
        decoupled=config.decoupled,
        data_dir=None if config.data_dir is None else Path(config.data_dir),
        device=config.device,
        metrics=config.metrics,
        probe_size=config.probe_size,
        network=config.network,
        classifier=config.classifier,
    )


def run_config(
    benchmark_name: str, method_name: str, seed: int, options: RunOptions
) -> ImageRunConfig:
    """The configuration of one run, every default filled in.

    Raises:
        ValueError: if the method is unknown or a value is out of range.
    """
    benchmark = BENCHMARKS[benchmark_name]
    require_known("method", method_name, METHODS)
    method = METHODS[method_name]
    strength, sigma = options.strength, options.sigma
    if strength is None and method.uses_strength and method_name not in benchmark.strengths:
        raise ValueError(f"{benchmark_name} knows no strength for {method_name}: give --strength.")
    if strength is None:
        strength = benchmark.strengths.get(method_name, 0.0)
    if sigma is None:
        sigma = benchmark.sigma
    return ImageRunConfig(
        benchmark=benchmark_name,
        method=method_name,
        seed=seed,
        dataset=benchmark.dataset,
        num_tasks=options.tasks,
        strength=strength if method.uses_strength else 0.0,
        sigma=sigma if method.uses_sigma else 0.0,
        anisotropy=options.anisotropy if method.uses_sigma else 0.0,
        decoupled=options.decoupled,
        data_dir=None if options.data_dir is None else str(options.data_dir),
        device=_device(options.device),
        metrics=options.metrics,
        probe_size=options.probe_size,
        network=options.network,
        classifier=options.classifier,
    )


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":", maxsplit=1)[0]
    if kind not in DEVICES:
        raise ValueError(f"Unknown --device {name!r}.{nearest(kind, ('auto', *DEVICES))}")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"--device {name} cannot be used here ({first_line}): give cpu, or leave it out."
        ) from error
    return name


def run(benchmark_name: str, options: RunOptions, command: str = "the same command") -> int:
    """Do what `plasticity run` does.

    Args:
        benchmark_name: One of `BENCHMARKS`.
        options: As the command line gives them.
        command: What to type to continue, for the message of a stopped run.

    Returns:
        The exit code: 0 if all runs are finished, 1 if one failed, 128 + signal if stopped.

    Raises:
        RunError, ValueError, TypeError: before anything runs, if the options cannot be met.
    """
    require_known("benchmark", benchmark_name, BENCHMARKS)
    for name in ("strength", "sigma"):
        chosen = [METHODS[method] for method in options.methods if method in METHODS]
        if getattr(options, name) and not any(getattr(m, f"uses_{name}") for m in chosen):
            raise ValueError(
                f"--{name} {getattr(options, name):g} means nothing to {', '.join(options.methods)}:"
                " leave it out, or name a method that uses it."
            )
    return _run_all(_jobs(benchmark_name, options, options.out), options, command)


def sweep(benchmark_name: str, options: SweepOptions, command: str = "the same command") -> int:
    """Do what `plasticity sweep` does; as `run`, for every setting of the grid."""
    require_known("benchmark", benchmark_name, BENCHMARKS)
    for name in ("strength", "sigma"):
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"--{name} {value:g} is not of a sweep: give --{name}s {value:g}.")
        if not getattr(options, f"{name}s"):
            raise ValueError(f"Give at least one value: --{name}s 0.001 0.01.")
    jobs: list[Job] = []
    for name in options.methods:
        require_known("method", name, METHODS)
        method = METHODS[name]
        for strength in options.strengths if method.uses_strength else (0.0,):
            for sigma in options.sigmas if method.uses_sigma else (0.0,):
                setting = replace(options, methods=(name,), strength=strength, sigma=sigma)
                folder = options.out / f"strength_{strength:g}_sigma_{sigma:g}"
                jobs += _jobs(benchmark_name, setting, folder)
    return _run_all(jobs, options, command)


def _jobs(benchmark_name: str, options: RunOptions, out: Path) -> list[Job]:
    return [
        Job(
            out / benchmark_name / method / f"seed_{seed}",
            run_config(benchmark_name, method, seed, options),
        )
        for seed in options.seeds
        for method in options.methods
    ]


def _run_all(jobs: Sequence[Job], options: RunOptions, command: str) -> int:
    messages = Messages()
    processes = _processes(options.jobs, jobs)
    unfinished = _unfinished(jobs)
    if len(unfinished) < len(jobs):
        messages.print(f"{len(jobs) - len(unfinished)} of {len(jobs)} runs are already finished.")
    if not unfinished:
        return 0
    totals = {job.path: job.config.num_tasks for job in unfinished}
    done = {path: float(runs.rows_done(path)) for path in totals}
    with live_progress(messages, totals, done) as on_progress:
        outcome = run_jobs(unfinished, processes, lambda job, value: on_progress(job.path, value))
    return _conclude(messages, outcome, command)


def _processes(wanted: int | None, jobs: Sequence[Job]) -> int:
    if not jobs:
        raise ValueError("Give at least one method and one seed: --methods none syre --seeds 0 1.")
    if wanted is not None:
        return require_integer("--jobs", wanted, minimum=1)
    if jobs[0].config.device != "cpu":
        return 1
    # The cores that this process may use, which a batch system may have limited.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unfinished(jobs: Sequence[Job]) -> list[Job]:
    """Refuse whatever can be refused before anything runs or is written; give what is to be run."""
    paths = [job.path for job in jobs]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(
                f"{path} is named twice, by a repeated method, seed or setting: once is enough."
            )
    for job in jobs:
        runs.require_same_config(job.path, runs.saved_config(job.path), job.config.to_json())
    first = jobs[0].config
    dataset = load_dataset(first.dataset, data_dir=first.data_dir)  # one download, before the runs
    require_fitting(first, dataset)
    unfinished = [job for job in jobs if not runs.is_finished(job.path, job.config.num_tasks)]
    runs.require_free([job.path for job in unfinished])
    return unfinished


def _conclude(messages: Messages, outcome: Outcome, command: str) -> int:
    if outcome.finished:
        messages.print(f"{len(outcome.finished)} runs finished.")
    for path in outcome.diverged:
        messages.print(f"diverged: {path} (its loss became NaN or infinite; it ends there)")
    for path, message in outcome.failed.items():
        messages.print(f"failed: {path}: {message}", style="red")
    if outcome.stopped:
        messages.print(
            f"{len(outcome.stopped)} runs stopped, their checkpoints are written. Continue:"
        )
        messages.print(f"  {command}")
    elif outcome.failed:
        messages.print("To continue what failed, once its cause is mended:")
        messages.print(f"  {command}")
    if outcome.interrupted_by is not None:
        return 128 + int(outcome.interrupted_by)
    return 1 if outcome.failed else 0
