"""Benchmarks of classes that are renamed."""

from __future__ import annotations

from typing import Any

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.label_permuted import LabelPermutedConfig

EMNIST = {
    "weight-decay": {"strength": 1e-4},
    "upgd": {"noise": 0.001, "beta": 0.9, "decay": 0.0},
}
"""Settings of mitigations that were published for label-permuted EMNIST."""


def _renamed(
    name: str,
    description: str,
    dataset: str,
    network: Network,
    published: dict[str, dict[str, Any]],
    minutes: float | None = None,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=LabelPermutedConfig(dataset=dataset, num_tasks=400, pixels="symmetric"),
            network=network,
            agent=ClassifierConfig("sgd", 1e-2, batch_size=1),
        ),
        published=published,
        minutes=minutes,
    )


BENCHMARKS = (
    _renamed(
        "label-permuted-emnist",
        "EMNIST's 47 classes, renamed every 2500 examples, one at a time (Elsayed & Mahmood, UPGD, 2024)",
        "emnist",
        MLP(hidden=(300, 150)),
        EMNIST,
        5.9,
    ),
    _renamed(
        "label-permuted-mnist",
        "MNIST's classes, renamed every 2500 examples; the settings of label-permuted-emnist",
        "mnist",
        MLP(hidden=(300, 150)),
        EMNIST,
        5.9,
    ),
    _renamed(
        "label-permuted-cifar10",
        "CIFAR-10's classes, renamed every 2500 examples; a control, where little plasticity is lost (UPGD)",
        "cifar10",
        CNN(
            channels=(6, 16),
            kernel_sizes=(5,),
            padding="none",
            downsampling="max-pool",
            hidden=(120, 84),
        ),
        {},
        36.0,
    ),
)
"""Benchmarks of this family."""
