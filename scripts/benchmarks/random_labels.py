"""Benchmarks of random labels."""

from __future__ import annotations

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.random_labels import RandomLabelsConfig

BENCHMARKS = (
    Benchmark(
        description="1200 images of MNIST, labelled at random anew for every task (Kumar et al., 2023)",
        config=SupervisedRunConfig(
            benchmark="random-labels",
            stream=RandomLabelsConfig(dataset="mnist", num_tasks=50),
            network=MLP(hidden=(100, 100)),
            agent=ClassifierConfig("adam", 1e-3, batch_size=16, epochs_per_task=400),
        ),
    ),
)
"""Benchmarks of this family."""
