"""Benchmarks of classes that arrive a few at a time."""

from __future__ import annotations

from plasticity.agents.networks import ResNet
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.class_incremental import ClassIncrementalConfig

NETWORK = ResNet(width=8, blocks=(1, 1, 1), biases=True, initialization="kaiming", zero_biases=True)
"""Network of Dohare et al. (2024) with an eighth of its channels, and 3 of its 8 blocks."""

CIFAR100 = SupervisedRunConfig(
    benchmark="class-incremental-cifar100",
    stream=ClassIncrementalConfig(
        dataset="cifar100",
        num_tasks=5,
        classes_per_task=4,
        train_per_class=90,
        validation_per_class=10,
        augmentation="flip-crop-rotate",
        pixels="standardized",
    ),
    network=NETWORK,
    agent=ClassifierConfig(
        "sgd",
        0.1,
        momentum=0.9,
        batch_size=90,
        epochs_per_task=10,
        learning_rate_drops=(3, 6, 8),
        keep_best=True,
    ),
    tracking=SupervisedTracking(probe_size=80),
)

BENCHMARKS = (
    Benchmark(
        description="MNIST, two more classes with every task, in an order of each seed; tests on all seen",
        config=SupervisedRunConfig(
            benchmark="class-incremental",
            stream=ClassIncrementalConfig(dataset="mnist", num_tasks=5),
            agent=ClassifierConfig(learning_rate=0.01, momentum=0.9),
        ),
        tuned_as="permuted-mnist",
        minutes=0.1,
    ),
    Benchmark(
        description="CIFAR-100, more classes with every task, learned by a ResNet (Dohare et al., 2024)",
        config=CIFAR100,
        methods=("none", "weight-decay", "weight-decay+weight-noise"),
        minutes=1.2,
        presets={
            "preset": Presets(
                help="Size: quick, 20 classes, 4 more with every task, 10 epochs each; nature, all 100, 5"
                " more with every task, 200 epochs each, and a ResNet-18, as published. Its base system is"
                " the method weight-decay; a fresh network on each task is --reference-every 1.",
                default="quick",
                groups={
                    "quick": Preset(values={}),
                    "nature": Preset(
                        values={
                            "stream.num_tasks": 20,
                            "stream.classes_per_task": 5,
                            "stream.train_per_class": None,
                            "stream.validation_per_class": 50,
                            "network.width": 64,
                            "network.blocks": (2, 2, 2, 2),
                            "agent.epochs_per_task": 200,
                            "agent.learning_rate_drops": (60, 120, 160),
                            "tracking.probe_size": 500,
                        },
                        description="all classes and a ResNet-18, as published (Dohare et al., 2024)",
                        minutes=89_000.0,
                    ),
                },
            )
        },
        published={
            "weight-decay": {"strength": 5e-4},
            "weight-noise": {"deviation": 1e-5},
            "cbp": {"replacement_rate": 1e-5, "maturity_threshold": 1000},
        },
    ),
)
"""Benchmarks of this family."""
