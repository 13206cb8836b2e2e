"""Benchmarks of renamed classes: the published settings."""

import pytest

from plasticity.scripts.config.benchmarks import BENCHMARKS


@pytest.mark.parametrize("name", ["emnist", "mnist", "cifar10"])
def test_the_published_settings(name):
    config = BENCHMARKS[f"label-permuted-{name}"].config
    assert config.stream.dataset == name
    assert config.stream.num_tasks * config.stream.num_examples == 1_000_000
    assert (config.stream.num_examples, config.stream.pixels) == (2500, "symmetric")
    assert (config.agent.optimizer, config.agent.batch_size) == ("sgd", 1)


def test_networks():
    assert BENCHMARKS["label-permuted-emnist"].config.network.hidden == (300, 150)
    network = BENCHMARKS["label-permuted-cifar10"].config.network
    assert (network.channels, network.kernel_sizes, network.hidden) == ((6, 16), (5,), (120, 84))
