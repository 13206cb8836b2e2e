"""Benchmarks of random labels: the published settings."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS


@pytest.mark.parametrize(
    ("name", "pixels"), [("random-labels", "symmetric"), ("random-labels-cifar", "standardized")]
)
def test_the_published_settings(name, pixels):
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
