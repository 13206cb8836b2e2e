"""Benchmarks of datasets that arrive in parts: warm starts, and chunks."""

from __future__ import annotations

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.chunked import ChunkedConfig
from plasticity.tasks.streams.images import ImageStreamConfig
from plasticity.tasks.streams.warm_start import WarmStartConfig

CONVOLUTIONS = CNN(channels=(32, 64, 128), downsampling="max-pool", hidden=(128,))
"""Network of the benchmarks on CIFAR-10, small enough for a CPU; published are ResNet-18 and others."""


def _in_parts(
    name: str,
    description: str,
    stream: ImageStreamConfig,
    network: Network,
    epochs: int,
    references: int,
    minutes: float,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=stream,
            network=network,
            agent=ClassifierConfig("adam", 1e-3, batch_size=64, epochs_per_task=epochs),
            tracking=SupervisedTracking(probe_size=256, reference_every=references),
        ),
        minutes=minutes,
    )


BENCHMARKS = (
    _in_parts(
        "warm-start",
        "a tenth of CIFAR-10, then all of it, against a fresh network (Ash & Adams, 2020; FIRE, 2026)",
        WarmStartConfig(dataset="cifar10", pixels="standardized"),
        CONVOLUTIONS,
        20,
        1,
        60.0,
    ),
    _in_parts(
        "warm-start-digits",
        "a tenth of scikit-learn's digits, then all of them; needs no download, seconds",
        WarmStartConfig(dataset="digits"),
        MLP(hidden=(100, 100)),
        20,
        1,
        0.02,
    ),
    _in_parts(
        "chunked",
        "CIFAR-10 in ten chunks, all of those until then, against a fresh network at the last (FIRE, 2026)",
        ChunkedConfig(dataset="cifar10", num_tasks=10, pixels="standardized"),
        CONVOLUTIONS,
        10,
        9,
        50.0,
    ),
    _in_parts(
        "chunked-digits",
        "scikit-learn's digits in ten chunks, all of those until then; needs no download, seconds",
        ChunkedConfig(dataset="digits", num_tasks=10),
        MLP(hidden=(100, 100)),
        20,
        9,
        0.03,
    ),
)
"""Benchmarks of this family."""
