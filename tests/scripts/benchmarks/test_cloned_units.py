"""The benchmark of cloned units."""

import torch

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.run.supervised_experiment import initial_network, supervised_stream


def test_half_of_the_units_begin_as_copies():
    config = BENCHMARKS["cloned-units"].config
    spec = supervised_stream(config, config.stream.load())[0].spec
    network = initial_network(config, spec)
    assert torch.equal(network.fc1.weight[:16], network.fc1.weight[16:])
    assert torch.equal(network.fc2.weight[:16], network.fc2.weight[16:])
