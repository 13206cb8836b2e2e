"""Benchmarks of labels that are noisy at first."""

from __future__ import annotations

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.noisy_to_clean import NoisyToCleanConfig


def _noisy(
    name: str,
    description: str,
    dataset: str,
    batch_size: int,
    epochs: int,
    minutes: float | None = None,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=NoisyToCleanConfig(dataset=dataset, num_tasks=5),
            network=MLP(hidden=(100, 100)),
            agent=ClassifierConfig("adam", 1e-3, batch_size=batch_size, epochs_per_task=epochs),
            tracking=SupervisedTracking(probe_size=256, reference_every=4),
        ),
        minutes=minutes,
    )


BENCHMARKS = (
    _noisy(
        "noisy-to-clean",
        "MNIST, 80 % of its labels random at first and none in the end, against a fresh network",
        "mnist",
        64,
        5,
        0.6,
    ),
    _noisy(
        "noisy-to-clean-digits",
        "scikit-learn's digits, 80 % of their labels random at first; needs no download, seconds",
        "digits",
        32,
        50,
        0.05,
    ),
)
"""Benchmarks of this family."""
