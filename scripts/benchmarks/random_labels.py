"""Benchmarks of random labels."""

from __future__ import annotations

from typing import Any

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.random_labels import RandomLabelsConfig

CONTINUAL_BACKPROP = {"utility": "adaptable-contribution", "maturity_threshold": 100}
"""Settings of continual backprop in the experiments of Kumar et al., 2023, but for its rate. Their dense
networks replace a unit with a probability, those with convolutions add up parts of units."""


def _random(
    name: str,
    description: str,
    dataset: str,
    network: Network,
    pixels: str,
    published: dict[str, dict[str, Any]],
    minutes: float,
    quick_minutes: float | None = None,
) -> Benchmark:
    kumar = {"stream.labels": "permuted", "stream.pixels": pixels}
    quick = Preset(
        values={**kumar, "stream.num_tasks": 20, "agent.epochs_per_task": 40},
        mitigations=published,
        description="20 tasks of 40 passes, in which the loss of plasticity shows",
        minutes=quick_minutes,
    )
    shows = {} if quick_minutes is None else {"quick": quick}
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
                " and pixels as published (Kumar et al., 2023)"
                + ("; quick: the same with 20 tasks of 40 passes." if shows else "."),
                default="own",
                groups={
                    "own": Preset(values={}),
                    "kumar": Preset(
                        values=kumar,
                        mitigations=published,
                        description="true labels permuted, as published (Kumar et al., 2023)",
                    ),
                    **shows,
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
        13.0,
        0.5,
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
        190.0,
    ),
)
"""Benchmarks of this family."""
