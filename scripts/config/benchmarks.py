"""Benchmarks: which stream meets which agent, with which settings by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from plasticity.agents.networks import MLP, NETWORKS
from plasticity.agents.ppo.config import PRESETS, PPOConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.checks import require_known
from plasticity.mitigations import MITIGATIONS, Mitigation
from plasticity.scripts.config.imports import import_saved
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.run_config import (
    ControlRunConfig,
    ControlTracking,
    RunConfig,
    SupervisedRunConfig,
    SupervisedTracking,
)
from plasticity.tasks import SCHEDULES
from plasticity.tasks.control.ant.config import SlipperyAntConfig
from plasticity.tasks.control.classic import ClassicControlConfig
from plasticity.tasks.streams.class_incremental import ClassIncrementalConfig
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig
from plasticity.tasks.streams.random_labels import RandomLabelsConfig

_Config = TypeVar("_Config", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class Presets:
    """Named groups of values that an option chooses between."""

    help: str
    """Description of the option."""

    default: str
    """Name that is chosen by default."""

    values: Mapping[str, Mapping[str, Any]]
    """Values by path, for each name."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A stream, an agent, and the settings that they are run with by default."""

    description: str
    """One line for `plasticity list`."""

    config: RunConfig
    """Configuration of its runs; the method and the seed are filled in later."""

    methods: tuple[str, ...] = ("none", "weight-decay", "syre")
    """Methods of a run, by default."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of a run, by default."""

    tuned_as: str | None = None
    """Benchmark whose tuned settings count for mitigations that were not searched on this one. None: each
    mitigation has its own defaults."""

    presets: Mapping[str, Presets] = field(default_factory=dict)
    """Options of its own that choose between named groups of values, by name."""

    @property
    def all_presets(self) -> dict[str, Presets]:
        """Options that choose between named groups of values, that of the network's architecture included."""
        return {**self.presets, **architecture_presets(self.config)}

    def mitigation(self, name: str) -> Mitigation:
        """Return a mitigation with its tuned settings; with its own defaults where none were searched.

        Raises:
            ValueError: if the name is unknown.
        """
        require_known("method", name, MITIGATIONS)
        tuned = tuned_settings()
        searched = (
            tuned.get(each, {}).get(name)
            for each in (self.config.benchmark, self.tuned_as)
            if each is not None
        )
        return MITIGATIONS[name](**next((each for each in searched if each is not None), {}))


TUNED_SETTINGS = Path(__file__).with_name("tuned_settings.json")
"""File of the best settings of the recorded searches, which `plasticity tune` writes."""


@cache
def tuned_settings() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the best settings of the recorded searches, by benchmark and mitigation."""
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(TUNED_SETTINGS.read_text())
    return found


def _permuted(
    name: str,
    description: str,
    dataset: str,
    *,
    num_tasks: int = 50,
    methods: tuple[str, ...] = ("none", "weight-decay", "syre", "l2-init"),
    tuned_as: str = "permuted-mnist",
    probe_size: int = 512,
    **training: Any,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=PermutedImagesConfig(dataset=dataset, num_tasks=num_tasks),
            agent=ClassifierConfig(learning_rate=0.01, momentum=0.9, **training),
            tracking=SupervisedTracking(probe_size=probe_size),
        ),
        methods=methods,
        tuned_as=tuned_as,
    )


_ANT_PRESETS = {
    "preset": Presets(
        help="Steps between two changes of friction: "
        + ", ".join(f"{name} {steps:,}" for name, steps in SCHEDULES.items())
        + ". It sets --change-every and nothing else.",
        default="small",
        values={name: {"stream.change_every": steps} for name, steps in SCHEDULES.items()},
    ),
    "agent": Presets(
        help="Published settings of PPO, as the defaults of the options below: standard, or non-stationary"
        " (Adam's betas 0.99 and 0.99).",
        default="standard",
        values={name: {"agent": agent} for name, agent in PRESETS.items()},
    ),
}


def _slippery_ant(name: str, description: str, engine: str, num_envs: int = 8) -> Benchmark:
    return Benchmark(
        description=description,
        config=ControlRunConfig(
            benchmark=name,
            stream=SlipperyAntConfig(
                engine=engine,
                num_steps=2_000_000,
                change_every=SCHEDULES[_ANT_PRESETS["preset"].default],
                num_envs=num_envs,
            ),
            agent=PRESETS[_ANT_PRESETS["agent"].default],
        ),
        methods=("none", "weight-decay", "syre"),
        # Bullet's ant was searched with one seed, over 1e-4, 1e-3 and 1e-2; the other ants and l2-init were
        # not.
        tuned_as="slippery-ant",
        presets=_ANT_PRESETS,
    )


def _classic(
    name: str, description: str, environment: str, changes: str, **agent: Any
) -> Benchmark:
    return Benchmark(
        description=description,
        config=ControlRunConfig(
            benchmark=name,
            stream=ClassicControlConfig(
                environment=environment,
                changes=changes,
                num_steps=1_000_000,
                change_every=50_000,
            ),
            agent=PPOConfig(
                hidden=(64, 64),
                initialization="orthogonal",
                rollout_steps=1024,
                learning_rate=1e-3,
                max_gradient_norm=0.5,
                **agent,
            ),
            tracking=ControlTracking(measure_every=10_240),
        ),
        methods=("none", "weight-decay", "syre"),
        tuned_as="continual-cartpole",  # searched with one seed, over 1e-6 and 1e-5; the others were not
    )


BENCHMARKS: dict[str, Benchmark] = {}
"""Benchmarks by name."""


def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Add a benchmark, which `plasticity run`, `sweep` and `list` then know by the name in its configuration.

    Returns:
        The benchmark.

    Raises:
        ValueError: if there is one of this name.
    """
    name = benchmark.config.benchmark
    if name in BENCHMARKS:
        raise ValueError(
            f"There is a benchmark named {name!r} ({BENCHMARKS[name].description}): give another name."
        )
    BENCHMARKS[name] = benchmark
    return benchmark


for _each in (
    _permuted(
        "permuted-mnist",
        "MNIST, its pixels permuted anew for every task (syre, Fig. 11)",
        "mnist",
    ),
    _permuted(
        "permuted-fashion",
        "Fashion-MNIST, permuted; the settings of permuted-mnist",
        "fashion-mnist",
    ),
    _permuted(
        "permuted-digits",
        "scikit-learn's 8 x 8 digits, permuted; needs no download, two minutes",
        "digits",
        num_tasks=30,
        methods=("none", "weight-decay", "syre"),
        tuned_as="permuted-digits",
        probe_size=256,
        batch_size=32,
        epochs_per_task=10,
    ),
    _permuted(
        "permuted-images",
        "any folder of files named as MNIST's (--data-dir); the settings of permuted-mnist",
        "images",
    ),
    Benchmark(
        description="1200 images of MNIST, labelled at random anew for every task (Kumar et al., 2023)",
        config=SupervisedRunConfig(
            benchmark="random-labels",
            stream=RandomLabelsConfig(dataset="mnist", num_tasks=50),
            network=MLP(hidden=(100, 100)),
            agent=ClassifierConfig("adam", 1e-3, batch_size=16, epochs_per_task=400),
        ),
    ),
    Benchmark(
        description="MNIST, two more classes with every task, in an order of each seed; tests on all seen",
        config=SupervisedRunConfig(
            benchmark="class-incremental",
            stream=ClassIncrementalConfig(dataset="mnist", num_tasks=5),
            agent=ClassifierConfig(learning_rate=0.01, momentum=0.9),
        ),
        tuned_as="permuted-mnist",
    ),
    _slippery_ant(
        "slippery-ant",
        "PyBullet's ant, whose ground friction changes (syre, Fig. 6); PPO",
        "bullet",
    ),
    _slippery_ant(
        "slippery-ant-mujoco",
        "MuJoCo's ant on the CPU; schedule and agent of slippery-ant",
        "mujoco",
    ),
    _slippery_ant(
        "slippery-ant-warp",
        "MuJoCo's ants on the GPU, many runs at once; otherwise as slippery-ant-mujoco",
        "warp",
        num_envs=32,  # 64 could not share the 100,000 steps of the small schedule evenly
    ),
    _classic(
        "continual-cartpole",
        "Gymnasium's CartPole, whose gravity, pole length and force change; PPO",
        "cartpole",
        "physics",
    ),
    _classic(
        "continual-pendulum",
        "Gymnasium's Pendulum, whose gravity, length and mass change; PPO, continuous actions",
        "pendulum",
        "physics",
        gamma=0.9,
    ),
    _classic(
        "offset-cartpole",
        "Gymnasium's CartPole, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "cartpole",
        "observations",
    ),
    _classic(
        "offset-acrobot",
        "Gymnasium's Acrobot, whose observations get another offset (TRAC, C-CHAIN); PPO",
        "acrobot",
        "observations",
    ),
):
    register_benchmark(_each)


def require_benchmark(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        ValueError: if there is none of this name; the message suggests the nearest.
    """
    require_known("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def benchmark_config(name: str, kind: type[_Config]) -> _Config:
    """Return the configuration of a benchmark whose runs are of a kind that is known.

    Raises:
        ValueError: if there is none of this name.
        TypeError: if it is a benchmark of another kind.
    """
    config = require_benchmark(name).config
    if type(config) is not kind:
        raise TypeError(
            f"{name} must be a benchmark of {kind.__name__}, not one of {type(config).__name__}."
        )
    return config


def read_config(saved: Mapping[str, Any]) -> RunConfig:
    """Read a configuration as `config.json` holds it; a missing key has the default of its dataclass.

    The modules that it names are imported first.

    Raises:
        ValueError: if a key or a name in it is unknown, a key without a default is missing, or a value is
            out of range.
        TypeError: if a value has the wrong type.
    """
    import_saved(saved)
    return require_benchmark(named_benchmark(saved)).config.read(saved)


def named_benchmark(saved: Mapping[str, Any], default: str | None = None) -> str:
    """Return the name of the benchmark that a configuration is of.

    Raises:
        TypeError: if it is not a name.
    """
    name = saved.get("benchmark", default)
    if not isinstance(name, str):
        raise TypeError(f"benchmark must be a name, not {name!r}.")
    return name


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the keys that it lacks, at the defaults of their dataclasses.

    Raises:
        ValueError, TypeError: if a key or a value is wrong.
    """
    import_saved(saved)
    name = saved.get("benchmark")
    is_foreign = isinstance(name, str | None) and name not in BENCHMARKS  # or of a later version
    if is_foreign:
        return dict(saved)
    return {**saved, **read_config(saved).to_json()}


def architecture_presets(config: RunConfig) -> dict[str, Presets]:
    """Return the option that chooses the network's architecture; none for runs without such a network.

    Another architecture than that of the configuration begins with its own defaults.
    """
    if not isinstance(config, SupervisedRunConfig):
        return {}
    own = config.network
    networks = {
        name: own if name == own.architecture else kind() for name, kind in NETWORKS.items()
    }
    presets = Presets(
        help="Architecture of the network; each has options of its own.",
        default=own.architecture,
        values={name: {"network": each} for name, each in networks.items()},
    )
    return {"architecture": presets}


def presets_of(benchmark: Benchmark, chosen: Mapping[str, str]) -> RunConfig:
    """Return the configuration of a benchmark with the values of chosen presets.

    Args:
        benchmark: The benchmark.
        chosen: Name of the chosen group, by option.

    Raises:
        ValueError: if the benchmark has no such option, or the option no such group.
    """
    config, presets = benchmark.config, benchmark.all_presets
    for option, name in chosen.items():
        if option not in presets:
            raise ValueError(
                f"--{option} {name} means nothing to {config.benchmark}: leave it out."
            )
        require_known(option, name, presets[option].values)
        config = with_values(config, presets[option].values[name])
    return config
