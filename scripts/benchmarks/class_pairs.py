"""Benchmarks of pairs of classes: continual ImageNet, and the same with the classes of CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.class_file_pairs import ClassFilePairsConfig
from plasticity.tasks.streams.class_pairs import ClassPairsConfig

NETWORK = CNN(
    channels=(32, 64, 128),
    kernel_sizes=(5, 3, 3),
    padding="none",
    downsampling="max-pool",
    hidden=(128, 128),
)
"""Network of Dohare et al. (2024), with torch's initial values."""

SMALL_NETWORK = CNN(
    channels=(16, 16),
    kernel_sizes=(5,),
    padding="none",
    downsampling="max-pool",
    hidden=(100, 100),
)
"""Network of Kumar et al. (2023), likewise."""

AGENT = ClassifierConfig(
    "sgd",
    0.01,
    momentum=0.9,
    batch_size=100,
    epochs_per_task=250,
    output_layer="zeroed",
)
"""Training of Dohare et al. (2024)."""

MITIGATIONS: Mapping[str, Mapping[str, Any]] = {
    "weight-decay": {"strength": 1e-5},
    "weight-noise": {"deviation": 1e-5},
    "cbp": {"replacement_rate": 3e-4, "maturity_threshold": 100},
}
"""Settings of Dohare et al. (2024) at the learning rate of 0.01: shrink and perturb is
weight-decay+weight-noise. L2 alone had 3e-6 at a rate of 0.03."""

METHODS = ("none", "weight-decay", "cbp")

BENCHMARKS = (
    Benchmark(
        description="CIFAR-100, two classes at a time, the output layer zeroed for each pair",
        config=SupervisedRunConfig(
            benchmark="binary-pairs-cifar",
            stream=ClassPairsConfig(dataset="cifar100", num_tasks=2000),
            network=NETWORK,
            agent=AGENT,
            tracking=SupervisedTracking(probe_size=40),
        ),
        methods=METHODS,
    ),
    Benchmark(
        description="ImageNet in 32 x 32, two classes at a time (--data-dir: a file for each class)",
        config=SupervisedRunConfig(
            benchmark="binary-pairs",
            stream=ClassFilePairsConfig(num_tasks=2000),
            network=NETWORK,
            agent=AGENT,
            tracking=SupervisedTracking(probe_size=200),
        ),
        methods=METHODS,
    ),
)
"""Benchmarks of this family."""
