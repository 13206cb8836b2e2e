"""Benchmarks of permuted images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

CONTINUAL_BACKPROP = {"utility": "adaptable-contribution", "maturity_threshold": 100}
"""Settings of continual backprop in the experiments of Dohare et al., 2024, and of Kumar et al., 2023, whose
dense networks replace a unit with a probability rather than add up parts of units."""

SMALL = {
    "stream.num_examples": 10_000,
    "stream.test_examples": 1000,
    "stream.pixels": "symmetric",
    "network": MLP(hidden=(100, 100)),
    "agent": ClassifierConfig("adam", 1e-3, batch_size=16),
}
"""Settings of Kumar et al., 2023, by path, but for the number of tasks."""

OF_SMALL: Mapping[str, Mapping[str, Any]] = {
    "weight-decay": {"strength": 1e-2},
    "l2-init": {"strength": 1e-2},
    "cbp": {**CONTINUAL_BACKPROP, "replacement_rate": 1e-3, "accumulate": False},
    "redo": {"every": 625, "tau": 0.0},
}
"""Settings of mitigations there."""

OF_NARROW: Mapping[str, Mapping[str, Any]] = {
    "weight-decay": {"strength": 1e-4 / 0.05},  # theirs is 1e-4 in a step, at any learning rate
    "weight-noise": {"deviation": 1e-9**0.5},
    "cbp": {"replacement_rate": 1e-3, "maturity_threshold": 5, "decay": 0.0},
    "redo": {"every": 8, "tau": 0.01},
    "swr": {"every": 2048, "share": 1e-6},
}
"""Settings of mitigations for three layers of 10 in Hernandez-Garcia et al., 2025 (in its code,
`small_network`). Shrink and perturb is weight-decay+weight-noise, of a variance of 1e-9."""

NARROW = {
    "stream.first_permuted": True,
    "network": MLP(
        hidden=(10, 10, 10),
        initialization="kaiming",
        output_gain=2**0.5,  # of all layers, the output layer too
        zero_biases=True,
    ),
    "agent": ClassifierConfig("sgd", 0.05, batch_size=30),
}
"""Settings of Hernandez-Garcia et al., 2025, by path, but for the number of tasks."""

PAPERS = Presets(
    help="Settings of a paper: paper (syre, 2025), online (Dohare et al., 2024), small (Kumar et al., 2023)"
    " or narrow (Hernandez-Garcia et al., 2025); quick and narrow-quick: 30 tasks of small and 40 of narrow,"
    " in which the loss shows.",
    default="paper",
    groups={
        "paper": Preset(values={}),
        "online": Preset(
            values={
                "stream.num_tasks": 800,
                "stream.first_permuted": True,
                "stream.composed": True,
                "network": MLP(
                    hidden=(2000, 2000, 2000), initialization="kaiming-uniform", zero_biases=True
                ),
                "agent": ClassifierConfig("sgd", 0.003, batch_size=1),
            },
            mitigations={
                "cbp": CONTINUAL_BACKPROP,
                "weight-decay": {"strength": 1e-4},
            },
            description="one example at a time, three layers of 2000 (Dohare et al., 2024)",
            minutes=7_900.0,
        ),
        "small": Preset(
            values={**SMALL, "stream.num_tasks": 500},
            mitigations=OF_SMALL,
            description="10,000 images a task, two layers of 100, Adam (Kumar et al., 2023)",
            minutes=9.0,
        ),
        "quick": Preset(
            values={**SMALL, "stream.num_tasks": 30},
            mitigations=OF_SMALL,
            description="the first 30 tasks of small, in which the loss of plasticity shows",
            minutes=0.6,
        ),
        "narrow": Preset(
            values={**NARROW, "stream.num_tasks": 1000},
            mitigations=OF_NARROW,
            description="three layers of 10 (Hernandez-Garcia et al., 2025)",
            minutes=18.0,
        ),
        "narrow-quick": Preset(
            values={**NARROW, "stream.num_tasks": 40, "stream.test_examples": 0},
            mitigations={**OF_NARROW, "l2-init": {"strength": 1e-3}},
            description="the first 40 tasks of narrow, in which the loss of plasticity shows",
            minutes=0.7,
        ),
    },
)
"""Published settings of permuted MNIST, which differ in the network, the initialization and the pixels."""


def _permuted(
    name: str,
    description: str,
    dataset: str,
    *,
    num_tasks: int = 50,
    methods: tuple[str, ...] = ("none", "weight-decay", "syre", "l2-init"),
    tuned_as: str = "permuted-mnist",
    probe_size: int = 512,
    minutes: float | None = None,
    presets: dict[str, Presets] | None = None,
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
        presets=presets or {},
        minutes=minutes,
    )


BENCHMARKS = (
    _permuted(
        "permuted-mnist",
        "MNIST, its pixels permuted anew for every task (syre, Fig. 11)",
        "mnist",
        presets={"preset": PAPERS},
        minutes=4.2,
    ),
    _permuted(
        "permuted-fashion",
        "Fashion-MNIST, permuted; the settings of permuted-mnist",
        "fashion-mnist",
        minutes=4.2,
    ),
    _permuted(
        "permuted-digits",
        "scikit-learn's 8 x 8 digits, permuted; needs no download, two minutes",
        "digits",
        num_tasks=30,
        methods=("none", "weight-decay", "syre"),
        minutes=0.5,
        tuned_as="permuted-digits",
        probe_size=256,
        batch_size=32,
        epochs_per_task=10,
    ),
    _permuted(
        "permuted-images",
        "any folder of files named as MNIST's (--data-dir); the settings of permuted-mnist",
        "images",
        minutes=4.2,
    ),
    Benchmark(
        description="MNIST, permuted every 5000 examples, one at a time (Elsayed & Mahmood, UPGD, 2024)",
        config=SupervisedRunConfig(
            benchmark="input-permuted",
            stream=PermutedImagesConfig(
                dataset="mnist",
                num_tasks=200,
                num_examples=5000,
                test_examples=0,
                first_permuted=True,
                pixels="symmetric",
            ),
            network=MLP(hidden=(300, 150)),
            agent=ClassifierConfig("sgd", 1e-3, batch_size=1),
        ),
        published={
            "weight-decay": {"strength": 1e-3},
            "upgd": {"noise": 0.1, "beta": 0.9999, "decay": 1e-2},
        },
        minutes=3.6,
    ),
)
"""Benchmarks of this family."""
