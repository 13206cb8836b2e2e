"""Benchmarks of gradual changes."""

from __future__ import annotations

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.gradual import GradualConfig


def _gradual(name: str, description: str, stream: GradualConfig, epochs: int) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=stream,
            network=MLP(hidden=(100, 100)),
            agent=ClassifierConfig("adam", 1e-3, batch_size=32, epochs_per_task=epochs),
            tracking=SupervisedTracking(probe_size=256),
        ),
    )


BENCHMARKS = (
    _gradual(
        "gradual-permuted-digits",
        "scikit-learn's digits, permuted, each task fading into the next (--transition 0: abrupt)",
        GradualConfig(dataset="digits", num_tasks=200),
        2,
    ),
    _gradual(
        "gradual-random-labels",
        "1200 images of MNIST, labelled at random, each task fading into the next (arXiv 2602.09234)",
        GradualConfig(dataset="mnist", num_tasks=200, base="random-labels"),
        8,
    ),
)
"""Benchmarks of this family."""
