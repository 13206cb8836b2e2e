"""Benchmark of slowly-changing regression."""

from __future__ import annotations

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.scripts.config.benchmark import Benchmark, Preset, Presets
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks.streams.slowly_changing_regression import SlowlyChangingRegressionConfig

BENCHMARKS = (
    Benchmark(
        description="20 bits, of which one flips from task to task; five units track a target of 100 (Dohare"
        " et al., 2024)",
        config=SupervisedRunConfig(
            benchmark="slowly-changing-regression",
            stream=SlowlyChangingRegressionConfig(num_tasks=50),
            network=MLP(hidden=(5,), initialization="kaiming-uniform", zero_biases=True),
            agent=ClassifierConfig("sgd", 0.01, batch_size=1),
        ),
        minutes=0.6,
        presets={
            "preset": Presets(
                help="Length: quick, 0.5 million examples, in which the loss of plasticity shows; nature, the"
                " 3 million of the paper. Both with its network, and the largest of its learning rates.",
                default="quick",
                groups={
                    "quick": Preset(values={"stream.num_tasks": 50}),
                    "nature": Preset(
                        values={"stream.num_tasks": 300},
                        description="as published: 3 million examples",
                        minutes=4.0,
                    ),
                },
            )
        },
    ),
)
"""Benchmarks of this family."""
