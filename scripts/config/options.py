"""Options of `plasticity run` and `plasticity sweep`, one class for each kind of benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from plasticity.agents.networks.image import NetworkConfig
from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.agents.supervised.classifier import ClassifierConfig
from plasticity.checks import nearest, require_known
from plasticity.metrics.registry import DEFAULT_METRICS
from plasticity.scripts.config.benchmarks import (
    ANT_BENCHMARKS,
    BENCHMARKS,
    IMAGE_BENCHMARKS,
    METHODS,
)
from plasticity.scripts.config.run_config import (
    ANT_METRICS,
    AntRunConfig,
    ImageRunConfig,
    RunConfig,
)
from plasticity.scripts.config.seed_ranges import Seeds
from plasticity.tasks import SCHEDULES

DEVICES = ("cpu", "cuda", "mps")
"""Kinds of devices that a run can use."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Train every method with every seed over the benchmark's stream of tasks.

    The same command again continues what is unfinished and skips what is finished; a longer run (--tasks,
    --steps) extends. A killed run continues exactly.
    """

    methods: tuple[str, ...]
    """Methods to compare: none, weight-decay, syre, l2-init, shift (see `plasticity list`)."""

    seeds: Seeds
    """One run for each method and seed: numbers, and ranges with both ends counted (0..31)."""

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

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, mps."""

    jobs: int | None = None
    """Processes at once. None: the number of cores on a CPU, one on a GPU."""

    together: int | Literal["auto"] = "auto"
    """Runs that train at once in each process: of image benchmarks (but for the method shift) and of
    slippery-ant-warp. auto: one on a CPU; on CUDA as many as its memory holds."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured (see `plasticity list`)."""

    def config(self, benchmark_name: str, method_name: str, seed: int) -> RunConfig:
        """The configuration of one run, every default filled in.

        Raises:
            ValueError: if the method is unknown or a value is out of range.
        """
        raise NotImplementedError

    def _shared(self, benchmark_name: str, method_name: str, seed: int) -> dict[str, Any]:
        """What the configurations of all benchmarks have in common."""
        benchmark = BENCHMARKS[benchmark_name]
        require_known("method", method_name, METHODS)
        method = METHODS[method_name]
        strength = self.strength
        if strength is None and method.uses_strength and method_name not in benchmark.strengths:
            raise ValueError(
                f"{benchmark_name} knows no strength for {method_name}: give --strength."
            )
        if strength is None:
            strength = benchmark.strengths.get(method_name, 0.0)
        sigma = benchmark.sigma if self.sigma is None else self.sigma
        return {
            "benchmark": benchmark_name,
            "method": method_name,
            "seed": seed,
            "strength": strength if method.uses_strength else 0.0,
            "sigma": sigma if method.uses_sigma else 0.0,
            "anisotropy": self.anisotropy if method.uses_sigma else 0.0,
            "decoupled": self.decoupled,
            "device": chosen_device(self.device),
            "metrics": self.metrics,
        }


@dataclass(frozen=True, kw_only=True)
class ImageRunOptions(RunOptions):
    """Train every method with every seed over the benchmark's stream of tasks.

    The same command again continues what is unfinished and skips what is finished; a larger --tasks
    extends. A killed run continues exactly.
    """

    tasks: int
    """Tasks in the stream."""

    data_dir: Path | None = None
    """Folder with the data's four files. None: $PLASTICITY_DATA/NAME, the cache, then a download."""

    probe_size: int = 512
    """Test images that the metrics are measured on."""

    network: Annotated[NetworkConfig, tyro.conf.arg(name="")] = field(default_factory=NetworkConfig)
    """Shape of the network."""

    classifier: Annotated[ClassifierConfig, tyro.conf.arg(name="")] = field(
        default_factory=ClassifierConfig
    )
    """How it is trained."""

    def config(self, benchmark_name: str, method_name: str, seed: int) -> ImageRunConfig:
        """The configuration of one run, every default filled in; see `RunOptions.config`."""
        shared = self._shared(benchmark_name, method_name, seed)
        _require_compilable(self.classifier.compile, shared["device"], ("cpu", "cuda"))
        return ImageRunConfig(
            **shared,
            dataset=IMAGE_BENCHMARKS[benchmark_name].dataset,
            num_tasks=self.tasks,
            data_dir=None if self.data_dir is None else str(self.data_dir),
            probe_size=self.probe_size,
            network=self.network,
            classifier=self.classifier,
        )


@dataclass(frozen=True, kw_only=True)
class AntRunOptions(RunOptions):
    """Train every method with every seed on the ant, whose ground friction changes.

    The same command again continues what is unfinished and skips what is finished; a larger --steps
    extends. A killed run continues exactly. --agent NAME takes published settings of PPO as the defaults:
    standard, or non-stationary (Adam's betas 0.99 and 0.99).
    """

    methods: tuple[str, ...]
    """Methods to compare: none, weight-decay, syre, l2-init (see `plasticity list`)."""

    metrics: tuple[str, ...] = ANT_METRICS
    """What is measured (see `plasticity list`)."""

    steps: int
    """Steps of all environments together. A run ends with the first row of metrics at or past it."""

    preset: str = "small"
    """How often the friction changes: small, nature (2 M steps), syre (5 M). Of nothing else."""

    change_every: int | None = None
    """Steps of all environments together between two changes. None: the preset's."""

    num_envs: int = 8
    """Environments that are stepped together; they share one schedule of frictions."""

    measure_every: int = 20_480
    """Steps between two rows of metrics: a multiple of --rollout-steps."""

    critic_strength: float | None = None
    """Of the critic's decay. None: as the actor's, which is --strength."""

    critic_sigma: float | None = None
    """Of the critic's anchor. None: as the actor's, which is --sigma."""

    cores: int | None = None
    """Cores for each run. None: the machine's, shared by the runs that go on at once."""

    agent: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    """How the agent learns."""

    def config(self, benchmark_name: str, method_name: str, seed: int) -> AntRunConfig:
        """The configuration of one run, every default filled in; see `RunOptions.config`."""
        shared = self._shared(benchmark_name, method_name, seed)
        _require_compilable(self.agent.compile, shared["device"], ("cuda",))
        method = METHODS[method_name]
        if method.shifts:
            raise ValueError(f"{method_name} is a control of the image benchmarks: leave it out.")
        require_known("preset", self.preset, SCHEDULES)
        interval = SCHEDULES[self.preset] if self.change_every is None else self.change_every
        return AntRunConfig(
            **shared,
            num_steps=self.steps,
            change_every=interval,
            engine=ANT_BENCHMARKS[benchmark_name].engine,
            num_envs=self.num_envs,
            measure_every=self.measure_every,
            critic_strength=self.critic_strength if method.uses_strength else None,
            critic_sigma=self.critic_sigma if method.uses_sigma else None,
            cores=1 if self.cores is None else self.cores,
            agent=self.agent,
        )


@dataclass(frozen=True, kw_only=True)
class SweepGrid:
    """Run a grid of strength x sigma: a folder OUT/strength_S_sigma_G/… for each setting.

    Methods without an anchor run once for each strength, methods without a decay once. Otherwise as
    `plasticity run`: the same command again continues, a longer run extends.
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


@dataclass(frozen=True, kw_only=True)
class ImageSweepOptions(SweepGrid, ImageRunOptions):
    """A grid over an image benchmark."""


@dataclass(frozen=True, kw_only=True)
class AntSweepOptions(SweepGrid, AntRunOptions):
    """A grid over a Slippery-Ant benchmark."""


_SWEEPS: dict[type[RunOptions], type[RunOptions]] = {
    ImageRunOptions: ImageSweepOptions,
    AntRunOptions: AntSweepOptions,
}


def default_options(benchmark_name: str, agent: str | None = None) -> RunOptions:
    """Options of a benchmark before the user changes any.

    Args:
        benchmark_name: One of `BENCHMARKS`.
        agent: Published settings of the agent, by name. None: the benchmark's.

    Raises:
        ValueError: if the benchmark's agent knows no such settings.
    """
    if benchmark_name in ANT_BENCHMARKS:
        return _ant_defaults(benchmark_name, agent)
    if agent is not None:
        raise ValueError(f"--agent {agent} means nothing to {benchmark_name}: leave it out.")
    return _image_defaults(benchmark_name)


def _ant_defaults(benchmark_name: str, agent: str | None = None) -> AntRunOptions:
    benchmark = ANT_BENCHMARKS[benchmark_name]
    name = benchmark.agent if agent is None else agent
    require_known("agent", name, PRESETS)
    return AntRunOptions(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        out=Path("runs") / benchmark_name,
        steps=benchmark.num_steps,
        preset=benchmark.preset,
        num_envs=benchmark.num_envs,
        agent=PRESETS[name],
    )


def _image_defaults(benchmark_name: str) -> ImageRunOptions:
    benchmark = IMAGE_BENCHMARKS[benchmark_name]
    return ImageRunOptions(
        methods=benchmark.methods,
        seeds=benchmark.seeds,
        out=Path("runs") / benchmark_name,
        tasks=benchmark.num_tasks,
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
        ValueError, TypeError: if it is no configuration, or one of another kind of benchmark.
    """
    require_known("benchmark", str(saved.get("benchmark")), BENCHMARKS)
    kinds = [name in ANT_BENCHMARKS for name in (saved["benchmark"], benchmark_name)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"it is of {saved['benchmark']}, whose settings mean nothing to {benchmark_name}."
        )
    if benchmark_name in ANT_BENCHMARKS:
        ant = AntRunConfig.from_json(saved)
        engine = ANT_BENCHMARKS[ant.benchmark].engine
        if ant.engine != engine:
            raise ValueError(
                f"engine must be {engine!r}, that of {ant.benchmark}, not {ant.engine!r}."
            )
        return _ant_options_from(benchmark_name, ant)
    config = ImageRunConfig.from_json(saved)
    dataset = IMAGE_BENCHMARKS[config.benchmark].dataset
    if config.dataset != dataset:
        raise ValueError(
            f"dataset must be {dataset!r}, that of {config.benchmark}, not {config.dataset!r}."
        )
    return _image_options_from(benchmark_name, config)


def _ant_options_from(benchmark_name: str, config: AntRunConfig) -> AntRunOptions:
    return replace(
        _ant_defaults(benchmark_name),
        **_shared_options(config),
        steps=config.num_steps,
        change_every=config.change_every,
        num_envs=config.num_envs,
        measure_every=config.measure_every,
        critic_strength=config.critic_strength,
        critic_sigma=config.critic_sigma,
        cores=config.cores,
        agent=config.agent,
    )


def _image_options_from(benchmark_name: str, config: ImageRunConfig) -> ImageRunOptions:
    return replace(
        _image_defaults(benchmark_name),
        **_shared_options(config),
        tasks=config.num_tasks,
        data_dir=None if config.data_dir is None else Path(config.data_dir),
        probe_size=config.probe_size,
        network=config.network,
        classifier=config.classifier,
    )


def _shared_options(config: RunConfig) -> dict[str, Any]:
    """Options of `RunOptions` that repeat a saved run."""
    same = ("strength", "sigma", "anisotropy", "decoupled", "device", "metrics")
    kept = {name: getattr(config, name) for name in same}
    return {"methods": (config.method,), "seeds": (config.seed,), **kept}


def sweep_options(options: RunOptions, out: Path) -> RunOptions:
    """The same options for a grid; its strengths and sigmas are its own."""
    made = type(options)
    kept = {each.name: getattr(options, each.name) for each in fields(made)}
    return _SWEEPS[made](**{**kept, "strength": None, "sigma": None, "out": out})


def grid_of(options: RunOptions) -> SweepGrid:
    """The grid of a sweep's options.

    Raises:
        ValueError: if a single strength or sigma was given, or a list is empty.
    """
    assert isinstance(options, SweepGrid)
    for name in ("strength", "sigma"):
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"--{name} {value:g} is not of a sweep: give --{name}s {value:g}.")
        if not getattr(options, f"{name}s"):
            raise ValueError(f"Give at least one value: --{name}s 0.001 0.01.")
    return options


def require_meaning(options: RunOptions) -> None:
    """Refuse a strength or a sigma that no method of these makes use of.

    Raises:
        ValueError: naming the option and its value.
    """
    chosen = [METHODS[method] for method in options.methods if method in METHODS]
    used: dict[str, Sequence[str]] = {
        "strength": ("strength", "critic_strength"),
        "sigma": ("sigma", "critic_sigma"),
    }
    for setting, names in used.items():
        for name in names:
            value = getattr(options, name, None)
            if value and not any(getattr(method, f"uses_{setting}") for method in chosen):
                raise ValueError(
                    f"--{name.replace('_', '-')} {value:g} means nothing to"
                    f" {', '.join(options.methods)}: leave it out, or name a method that uses it."
                )


def _require_compilable(wanted: bool, device: str, kinds: Sequence[str]) -> None:
    if wanted and device.split(":", maxsplit=1)[0] not in kinds:
        raise ValueError(
            f"--compile works on {' and '.join(kinds)}, and --device is {device}: leave it out."
        )


def chosen_device(name: str) -> str:
    """The device that an option names; "auto" takes a GPU if there is one.

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
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"--device {name} cannot be used here ({first_line}): give cpu, or leave it out."
        ) from error
    return name
