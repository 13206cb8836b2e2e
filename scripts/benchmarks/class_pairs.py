"""Benchmarks of pairs of classes: continual ImageNet, and the same with the classes of CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity.agents.networks import CNN
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.benchmarks.permuted_images import CONTINUAL_BACKPROP
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.nested import with_values
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
    "cbp": {**CONTINUAL_BACKPROP, "replacement_rate": 3e-4},
}
"""Settings of Dohare et al. (2024) at the learning rate of 0.01: shrink and perturb is
weight-decay+weight-noise. L2 alone had 3e-6 at a rate of 0.03."""

OF_KUMAR: Mapping[str, Mapping[str, Any]] = {
    "l2-init": {"strength": 1e-3},
    "weight-decay": {},
    "weight-noise": {},
    "cbp": CONTINUAL_BACKPROP,
}
"""Settings of Kumar et al. (2023), whose others are not known: those are the mitigations' own, as Dohare's
are for longer tasks and SGD."""

METHODS = ("none", "weight-decay", "cbp")

SMALL = CNN(channels=(8, 16), hidden=(64, 64))
"""Network of the quick preset, which takes a tenth of the time."""

QUICK = {
    "stream.num_tasks": 200,
    "network": SMALL,
    "agent.learning_rate": 0.03,
    "agent.batch_size": 20,
    "agent.epochs_per_task": 10,
}
NATURE = {
    "stream.num_tasks": 2000,
    "network": NETWORK,
    "agent": AGENT,
}
KUMAR = {
    "stream.num_tasks": 500,
    "network": SMALL_NETWORK,
    "agent": ClassifierConfig("adam", 1e-3, batch_size=100, epochs_per_task=10),
}

BENCHMARKS = (
    Benchmark(
        description="CIFAR-100, two classes at a time, the output layer zeroed for each pair (the form of"
        " continual ImageNet)",
        config=with_values(
            SupervisedRunConfig(
                benchmark="binary-pairs-cifar",
                stream=ClassPairsConfig(dataset="cifar100", num_tasks=200, pixels="standardized"),
                agent=AGENT,
                tracking=SupervisedTracking(probe_size=40),
            ),
            QUICK,
        ),
        methods=METHODS,
        published=MITIGATIONS,
        minutes=1.6,
        presets={
            "preset": Presets(
                help="Size: quick, a small network and 200 short tasks at a rate of 0.03; nature, the"
                " network and the training of continual ImageNet (Dohare et al., 2024), 2000 tasks of 250"
                " epochs.",
                default="quick",
                groups={
                    "quick": Preset(values={}, mitigations=MITIGATIONS),
                    "nature": Preset(
                        values=NATURE,
                        mitigations=MITIGATIONS,
                        description="the network and training of continual ImageNet (Dohare et al., 2024)",
                        minutes=5000.0,
                    ),
                },
            )
        },
    ),
    Benchmark(
        description="continual ImageNet: 32 x 32, two classes at a time, in your own files (--data-dir)",
        config=with_values(
            SupervisedRunConfig(
                benchmark="binary-pairs",
                stream=ClassFilePairsConfig(num_tasks=2000),
                agent=AGENT,
                tracking=SupervisedTracking(probe_size=200),
            ),
            NATURE,
        ),
        methods=METHODS,
        published=MITIGATIONS,
        minutes=6000.0,
        presets={
            "preset": Presets(
                help="Settings: nature, those of Dohare et al. (2024), with the output layer zeroed for each"
                " task; kumar, those of Kumar et al. (2023): shorter tasks, Adam, and nothing zeroed.",
                default="nature",
                groups={
                    "nature": Preset(
                        values={},
                        mitigations=MITIGATIONS,
                        description="as published (Dohare et al., 2024)",
                    ),
                    "kumar": Preset(
                        values=KUMAR,
                        mitigations=OF_KUMAR,
                        description="500 tasks of 10 epochs, Adam, as published (Kumar et al., 2023)",
                        minutes=33.0,
                    ),
                },
            )
        },
    ),
)
"""Benchmarks of this family."""
