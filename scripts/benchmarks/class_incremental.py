"""Benchmarks of classes that arrive a few at a time."""

from __future__ import annotations

from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.class_incremental import ClassIncrementalConfig

BENCHMARKS = (
    Benchmark(
        description="MNIST, two more classes with every task, in an order of each seed; tests on all seen",
        config=SupervisedRunConfig(
            benchmark="class-incremental",
            stream=ClassIncrementalConfig(dataset="mnist", num_tasks=5),
            agent=ClassifierConfig(learning_rate=0.01, momentum=0.9),
        ),
        tuned_as="permuted-mnist",
    ),
)
"""Benchmarks of this family."""
