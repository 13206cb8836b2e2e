"""Benchmarks of renamed classes: the published settings."""

import pytest

from plasticity.mitigations import UPGD, WeightDecay
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


@pytest.mark.parametrize("name", ["emnist", "mnist"])
def test_mitigations_have_the_settings_for_emnist(name):
    benchmark = BENCHMARKS[f"label-permuted-{name}"]
    assert benchmark.mitigation("weight-decay") == WeightDecay(strength=1e-4)
    assert benchmark.mitigation("upgd") == UPGD(noise=0.001, beta=0.9, decay=0.0)


def test_no_settings_of_emnist_count_as_published_for_cifar10():
    assert BENCHMARKS["label-permuted-cifar10"].mitigation("weight-decay") == WeightDecay()
    assert BENCHMARKS["label-permuted-cifar10"].mitigation("upgd") == UPGD()
