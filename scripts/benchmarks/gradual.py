"""Benchmarks of gradual changes."""

from __future__ import annotations

from collections.abc import Mapping

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.tasks.streams.gradual import GradualConfig

LENGTHS = Presets(
    help="Length: full, 20 tasks of ten segments; quick, ten of them, in which the loss of plasticity shows.",
    default="full",
    groups={
        "full": Preset(values={}),
        "quick": Preset(
            values={"stream.num_tasks": 100},
            mitigations={"l2-init": {"strength": 1e-2}},
            description="ten tasks of ten segments, in which the loss of plasticity shows",
            minutes=0.3,
        ),
    },
)
"""Lengths of gradual random labels."""


def _gradual(
    name: str,
    description: str,
    stream: GradualConfig,
    epochs: int,
    minutes: float | None = None,
    presets: Mapping[str, Presets] | None = None,
) -> Benchmark:
    return Benchmark(
        description=description,
        config=SupervisedRunConfig(
            benchmark=name,
            stream=stream,
            network=MLP(hidden=(100, 100)),
            agent=ClassifierConfig("adam", 1e-3, batch_size=32, epochs_per_task=epochs),
            tracking=SupervisedTracking(probe_size=256),
        ),
        presets=presets or {},
        minutes=minutes,
    )


BENCHMARKS = (
    _gradual(
        "gradual-permuted-digits",
        "scikit-learn's digits, permuted, each task fading into the next (--transition 0: abrupt)",
        GradualConfig(dataset="digits", num_tasks=200),
        2,
        0.2,
    ),
    _gradual(
        "gradual-random-labels",
        "1200 images of MNIST, labelled at random, each task fading into the next (arXiv 2602.09234)",
        GradualConfig(dataset="mnist", num_tasks=200, base="random-labels"),
        8,
        0.6,
        {"preset": LENGTHS},
    ),
)
"""Benchmarks of this family."""
