"""Benchmarks of random labels: the published settings."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS


@pytest.mark.parametrize(
    ("name", "pixels", "replacement"),
    [
        ("random-labels", "symmetric", (1e-3, False)),
        ("random-labels-cifar", "standardized", (1e-4, True)),
    ],
)
def test_the_published_settings(name, pixels, replacement):
    own = BENCHMARKS[name].config
    assert (own.stream.labels, own.stream.pixels) == ("independent", "unit")
    benchmark = BENCHMARKS[name].with_presets({"preset": "kumar"})
    config = benchmark.config
    assert (config.stream.labels, config.stream.pixels) == ("permuted", pixels)
    assert (config.stream.num_tasks, config.stream.num_examples) == (50, 1200)
    # 75 batches of 16 a pass: 30,000 steps a task
    agent = config.agent
    assert agent.epochs_per_task * config.stream.num_examples / agent.batch_size == 30_000
    assert (agent.optimizer, agent.learning_rate) == ("adam", 1e-3)
    assert benchmark.mitigation("l2-init").strength == 1e-2
    found = benchmark.mitigation("cbp")
    assert (found.replacement_rate, found.accumulate) == replacement
    assert (found.utility, found.maturity_threshold) == ("adaptable-contribution", 100)
