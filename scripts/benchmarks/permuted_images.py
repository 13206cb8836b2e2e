"""Benchmarks of permuted images."""

from __future__ import annotations

from typing import Any

from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig


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


BENCHMARKS = (
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
)
"""Benchmarks of this family."""
