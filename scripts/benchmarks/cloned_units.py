"""Benchmarks of networks that begin with cloned units."""

from __future__ import annotations

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

BENCHMARKS = (
    Benchmark(
        description="scikit-learn's digits, permuted, and a network half of whose units begin as copies",
        config=SupervisedRunConfig(
            benchmark="cloned-units",
            stream=PermutedImagesConfig(dataset="digits", num_tasks=10),
            network=MLP(hidden=(32, 32), cloned_share=0.5),
            agent=ClassifierConfig(
                learning_rate=0.01, momentum=0.9, batch_size=32, epochs_per_task=10
            ),
            tracking=SupervisedTracking(probe_size=256),
        ),
        tuned_as="permuted-digits",
        minutes=0.03,
    ),
)
"""Benchmarks of this family."""
