"""Options of `plasticity run` and `plasticity sweep`: the runs that they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from plasticity.checks import nearest
from plasticity.mitigations import MITIGATIONS, Mitigation, method_name, mitigation_names
from plasticity.scripts.config.benchmark import Presets, architecture_presets
from plasticity.scripts.config.benchmarks import named_benchmark, require_benchmark
from plasticity.scripts.config.launchers import LauncherName, RayOptions, SlurmOptions
from plasticity.scripts.config.nested import (
    flattened,
    setting_at,
    settings_of,
    with_values,
)
from plasticity.scripts.config.run_config import RunConfig, method_from_plain
from plasticity.scripts.config.seed_ranges import Seeds

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of devices that a run can use."""

CRITIC = "critic"
"""Prefix of the options for the mitigations of a critic: --critic.syre.sigma."""

StackSize = int | Literal["auto"]
"""Number of runs that one process trains stacked; "auto": by the device."""


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options of the command itself: which runs there are, where they go, and how they share the machine."""

    methods: tuple[str, ...]
    """Methods to compare (see `plasticity list`); first+second combines two."""

    seeds: Seeds
    """Seeds, one run for each method and seed: numbers, and ranges with both ends counted (0..31)."""

    out: Path
    """Folder of the runs: OUT/BENCHMARK/METHOD/seed_N, in a sweep OUT/SETTINGS/BENCHMARK/METHOD/seed_N."""

    device: str = "auto"
    """Device to train on: auto (a GPU if there is one), cpu, cuda, mps."""

    jobs: int | None = None
    """Processes at once. None: the number of cores on a CPU, one on a GPU."""

    tuned: Path | None = None
    """File that `plasticity tune` wrote: each method trains with the settings that were found for it. None:
    those of the benchmark."""

    stack: StackSize = "auto"
    """Runs that each process trains stacked: of supervised benchmarks and of environments on a device
    (slippery-ant-warp, slippery-humanoid-warp). auto: one on a CPU; on CUDA as many as its memory holds."""

    launcher: LauncherName = "local"
    """Place where the runs are started: local, in processes of this machine; slurm, as jobs of an array
    (extra "slurm"); ray, as tasks (extra "ray"). OUT has to be on a file system that all machines share."""

    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    """Request of each Slurm job."""

    ray: RayOptions = field(default_factory=RayOptions)
    """Address of Ray, and request of each task."""

    @property
    def cores_of_job(self) -> int | None:
        """Cores that each job has on a cluster; None on this machine, whose cores are shared."""
        return None if self.launcher == "local" else getattr(self, self.launcher).cores

    @property
    def device_of_jobs(self) -> str:
        """Device of the runs: on a cluster it is what a job asks for, and not checked on this machine."""
        if self.launcher == "local":
            return chosen_device(self.device)
        if self.device == "auto":
            return "cuda" if getattr(self, self.launcher).gpus > 0 else "cpu"
        return self.device


@dataclass(frozen=True, kw_only=True)
class RunOptions(CommandOptions):
    """Runs to be done: the command's options, and the configuration that the runs share."""

    config: RunConfig
    """Configuration of the runs, but for their method, seed and device."""

    mitigations: Mapping[str, Mitigation]
    """Settings of the mitigations, by name."""

    critic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that the critic's mitigations have instead, by name."""

    presets: Mapping[str, Presets] = field(default_factory=dict)
    """Options that choose between named groups of values; a benchmark's own have no place where the defaults
    are of a file."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.config.benchmark

    def run_config(self, method: str, seed: int) -> RunConfig:
        """Return the configuration of one run.

        Raises:
            ValueError: if the method or the device is unknown, or a value is out of range.
        """
        names = mitigation_names(method)
        changes: dict[str, Any] = {}
        if self.config.has_critic() and any(self.critic.get(n) for n in names):
            changes["critic_method"] = tuple(
                replace(self.mitigations[name], **self.critic.get(name, {})) for name in names
            )
        return replace(
            self.config,
            method=tuple(self.mitigations[name] for name in names),
            seed=seed,
            device=self.device_of_jobs,
            **changes,
        )


def default_options(benchmark_name: str, presets: Mapping[str, str] | None = None) -> RunOptions:
    """Return the options of a benchmark before the user changes any.

    Args:
        benchmark_name: One of `BENCHMARKS`.
        presets: Name of the chosen group of values, by option. None: the benchmark's defaults.

    Raises:
        ValueError: if the benchmark is unknown or has no such presets.
    """
    benchmark = require_benchmark(benchmark_name).with_presets(presets or {})
    return RunOptions(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        out=Path("runs") / benchmark_name,
        config=replace(benchmark.config, device="auto"),
        mitigations={name: benchmark.mitigation(name) for name in MITIGATIONS},
        presets=benchmark.all_presets,
    )


def options_from_config(benchmark_name: str, saved: Mapping[str, Any]) -> RunOptions:
    """Return the options that a configuration file asks for, on top of the defaults of a benchmark.

    Missing keys have the values of the benchmark, as options that are not given. (In the `config.json` of a
    run folder, which says what a run was, they have the defaults of their dataclasses.)

    Args:
        benchmark_name: Benchmark of the runs to come, which may be another than the saved one.
        saved: Content of a `config.json`, or a part of it.

    Raises:
        ValueError, TypeError: if it is not a configuration, or one of another kind of benchmark.
    """
    named = require_benchmark(named_benchmark(saved, benchmark_name)).config
    options = default_options(benchmark_name)
    if not named.is_like(options.config):
        raise ValueError(
            f"it is of {named.benchmark}, whose settings mean nothing to {benchmark_name}."
        )
    _require_sections(saved, named)
    _require_fixed(saved, named)
    own = named.method_fields()
    plain = {name: saved[name] for name in own if saved.get(name) is not None}
    rest = {name: value for name, value in saved.items() if name not in own}
    config = options.config.read({**rest, "benchmark": benchmark_name}, options.config)
    fixed = {path: setting_at(options.config, path) for path in config.fixed}
    method = method_from_plain(plain.get("method", {}), "method", options.mitigations)
    mitigations = {**options.mitigations, **{each.name: each for each in method}}
    methods = (method_name(method),) if "method" in plain else options.methods
    return replace(
        options,
        methods=methods,
        seeds=(config.seed,) if "seed" in saved else options.seeds,
        device=config.device if "device" in saved else options.device,
        # With its own device, a run checks whether it can be compiled there.
        config=with_values(config, {**fixed, "device": "auto"}),
        mitigations=mitigations,
        critic=_critic_settings(plain["critic_method"], methods, mitigations)
        if "critic_method" in plain
        else {},
        presets=architecture_presets(config),
    )


def _critic_settings(
    plain: object, methods: Sequence[str], actors: Mapping[str, Mitigation]
) -> dict[str, dict[str, Any]]:
    """Return the settings that a file gives the critic's mitigations; others are the actor's."""
    critic = method_from_plain(plain, "critic_method", actors)
    if method_name(critic) not in methods:
        raise ValueError(
            f"critic_method {method_name(critic)} must have the mitigations of method, which is"
            f" {' or '.join(methods)}: give the same ones, with other settings."
        )
    given = plain if isinstance(plain, Mapping) else {}
    return {
        each.name: {key: getattr(each, key) for key in given.get(each.name) or {}}
        for each in critic
    }


def _require_sections(saved: Mapping[str, Any], named: RunConfig) -> None:
    """Refuse a setting outside of its section, and say where it belongs."""
    for each in settings_of(named):
        section, _, name = each.path.rpartition(".")
        if section and name in saved and not hasattr(named, name):
            raise ValueError(
                f"Unknown key of the configuration {name!r}: it is a setting of {section}. Write"
                f" {section}: {{{name}: {saved[name]!r}}}."
            )


def _require_fixed(saved: Mapping[str, Any], named: RunConfig) -> None:
    """Raise a ValueError if a setting that the benchmark's name implies has another value."""
    given = flattened(saved)
    for path in named.fixed:
        expected = setting_at(named, path)
        if given.get(path, expected) != expected:
            raise ValueError(
                f"{path} must be {expected!r}, that of {named.benchmark}, not {given[path]!r}."
            )


def chosen_device(name: str) -> str:
    """Return the device that an option names; "auto" takes a GPU if there is one.

    Raises:
        ValueError: if it is unknown or cannot be used here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":", maxsplit=1)[0]
    if kind not in DEVICES:
        raise ValueError(f"Unknown --device {name!r}.{nearest(kind, ('auto', *DEVICES))}")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0].split(". ")[0]  # torch tells a page about mps
        raise ValueError(
            f"--device {name} cannot be used here ({first_line}): give cpu, or leave it out."
        ) from error
    return name
