"""The benchmark of cloned units."""

import torch

from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.supervised_experiment import (
    SupervisedExperiment,
    initial_network,
    supervised_stream,
)


def test_half_of_the_units_begin_as_copies():
    config = BENCHMARKS["cloned-units"].config
    spec = supervised_stream(config, config.stream.load())[0].spec
    network = initial_network(config, spec)
    assert torch.equal(network.fc1.weight[:16], network.fc1.weight[16:])
    assert torch.equal(network.fc2.weight[:16], network.fc2.weight[16:])


def test_a_whole_run():
    config = with_values(
        BENCHMARKS["cloned-units"].config, {"stream.num_tasks": 1, "agent.epochs_per_task": 1}
    )
    SupervisedExperiment.require_runnable([config])
    row = SupervisedExperiment([config], stacked=False).next_rows(lambda: False)[0]
    assert 0.1 < row["train_accuracy"] <= 1
