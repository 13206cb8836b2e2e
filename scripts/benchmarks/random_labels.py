"""Benchmarks of random labels."""

from __future__ import annotations

from typing import Any

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.benchmarks.permuted_images import CONTINUAL_BACKPROP
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.random_labels import RandomLabelsConfig


def _random(
    name: str,
    description: str,
    dataset: str,
    network: Network,
    pixels: str,
    published: dict[str, dict[str, Any]],
    minutes: float,
    quick_tasks: int,
) -> Benchmark:
    kumar = {"stream.labels": "permuted", "stream.pixels": pixels}
    quick_share = quick_tasks * 40 / (50 * 400)  # of the passes
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=RandomLabelsConfig(dataset=dataset, num_tasks=50),
            network=network,
            agent=ClassifierConfig("adam", 1e-3, batch_size=16, epochs_per_task=400),
        ),
        minutes=minutes,
        presets={
            "preset": Presets(
                help="own: labels drawn independently, pixels from 0 to 1; kumar: the true labels permuted,"
                " and pixels as published (Kumar et al., 2023); quick: the same with"
                f" {quick_tasks} tasks of 40 passes.",
                default="own",
                groups={
                    "own": Preset(values={}),
                    "kumar": Preset(
                        values=kumar,
                        mitigations=published,
                        description="true labels permuted, as published (Kumar et al., 2023)",
                    ),
                    "quick": Preset(
                        values={
                            **kumar,
                            "stream.num_tasks": quick_tasks,
                            "agent.epochs_per_task": 40,
                        },
                        mitigations=published,
                        description=f"{quick_tasks} tasks of 40 passes, in which the loss shows",
                        minutes=quick_share * minutes,
                    ),
                },
            )
        },
    )


BENCHMARKS = (
    _random(
        "random-labels",
        "1200 images of MNIST, labelled at random anew for every task (Kumar et al., 2023)",
        "mnist",
        MLP(hidden=(100, 100)),
        "symmetric",
        {
            "l2-init": {"strength": 1e-2},
            "cbp": {**CONTINUAL_BACKPROP, "replacement_rate": 1e-3, "accumulate": False},
        },
        minutes=13.0,
        quick_tasks=20,
    ),
    _random(
        "random-labels-cifar",
        "1200 images of CIFAR-10, labelled at random anew for every task (Kumar et al., 2023)",
        "cifar10",
        CNN(
            channels=(16, 16),
            kernel_sizes=(5,),
            padding="none",
            downsampling="max-pool",
            hidden=(100, 100),
        ),
        "standardized",
        {
            "l2-init": {"strength": 1e-2},
            "weight-decay": {"strength": 1e-2},
            "cbp": {**CONTINUAL_BACKPROP, "replacement_rate": 1e-4},
            "redo": {"every": 30_000, "tau": 0.1},
        },
        minutes=190.0,
        quick_tasks=6,
    ),
)
"""Benchmarks of this family."""
