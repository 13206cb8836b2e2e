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


@pytest.mark.parametrize(("name", "tasks"), [("random-labels", 20), ("random-labels-cifar", 6)])
def test_quick_is_the_published_form_with_fewer_tasks_and_passes(name, tasks):
    benchmark = BENCHMARKS[name]
    quick, kumar = (benchmark.with_presets({"preset": each}) for each in ("quick", "kumar"))
    assert (quick.config.stream.num_tasks, quick.config.agent.epochs_per_task) == (tasks, 40)
    assert quick.config.network == kumar.config.network
    assert quick.config.stream.pixels == kumar.config.stream.pixels
    assert quick.mitigation("l2-init") == kumar.mitigation("l2-init")
    # 50 tasks of 400 passes: 13 minutes of MNIST are 0.52 for 800 passes, 190 of CIFAR 2.28 for 240
    expected = {"random-labels": 0.52, "random-labels-cifar": 2.28}[name]
    presets = benchmark.presets["preset"].groups
    assert presets["quick"].minutes == pytest.approx(expected)
