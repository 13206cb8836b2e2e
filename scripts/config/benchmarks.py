"""Registry of benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from plasticity.checks import require_known
from plasticity.scripts.benchmarks import FAMILIES
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.imports import import_saved
from plasticity.scripts.config.run_config import RunConfig

_Config = TypeVar("_Config", bound=RunConfig)

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


for _family in FAMILIES:
    for _each in _family:
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
