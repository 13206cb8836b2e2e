"""The benchmark of slowly-changing regression: its published settings, and whole runs."""

import json
import math

import pytest
import torch

from plasticity.mitigations import Churn
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment, initial_network

BENCHMARK = BENCHMARKS["slowly-changing-regression"]
SMALL = {
    "stream.num_tasks": 3,
    "stream.num_examples": 40,
    "tracking.probe_size": 16,
    "tracking.metrics": ("dead_fraction",),
}


def small(seed=0, **values):
    return with_values(BENCHMARK.config, {**SMALL, "seed": seed, **values})


def rows_of(config):
    experiment = SupervisedExperiment([config], stacked=False)
    return [experiment.next_rows(lambda: False)[0] for _ in range(config.stream.num_tasks)]


def test_the_published_settings():
    config = BENCHMARK.with_presets({"preset": "nature"}).config
    assert config.stream.num_tasks * config.stream.num_examples == 3_000_000
    assert (config.stream.slow_bits, config.stream.random_bits) == (15, 5)
    assert (config.stream.flips, config.stream.target_units, config.stream.beta) == (
        "one",
        100,
        0.7,
    )
    agent = config.agent
    assert (agent.optimizer, agent.learning_rate, agent.momentum) == ("sgd", 0.01, 0.0)
    assert (agent.batch_size, agent.epochs_per_task) == (1, 1)
    network = initial_network(config, config.stream.make(torch.device("cpu"), 0)[0].spec)
    assert [tuple(each.shape) for each in network.parameters()] == [(5, 20), (5,), (1, 5), (1,)]
    assert not network.fc1.bias.any()
    # uniform within gain * sqrt(3 / fan-in): ReLU's gain is the square root of 2, that of the output 1
    bounds = {
        name: each.bound for name, each in network.initialization().items() if "weight" in name
    }
    assert bounds == pytest.approx(
        {"fc1.weight": math.sqrt(6 / 20), "fc2.weight": math.sqrt(3 / 5)}
    )


def test_rows_tell_the_error_before_each_update():
    """With a learning rate of almost 0, the network stays what it was."""
    config = small(**{"agent.learning_rate": 1e-30})
    row = rows_of(config)[0]
    assert not {"online_accuracy", "train_accuracy", "train_loss"} & set(row)
    task = SupervisedExperiment([config], stacked=False)._tasks[0]
    network = initial_network(config, task.spec)
    expected = (network(task.inputs) - task.targets).square().mean().item()
    assert row["online_loss"] == pytest.approx(expected, rel=1e-5)


def test_stacked_runs_are_those_alone_and_a_stopped_run_continues_exactly():
    configs = [small(seed) for seed in (0, 1)]
    stacked = SupervisedExperiment(configs, stacked=True)
    rows = [stacked.next_rows(lambda: False) for _ in range(3)]
    for run, config in enumerate(configs):
        expected = rows_of(config)
        for row, own in zip(rows, expected, strict=True):
            assert row[run] == pytest.approx(own, rel=1e-4)
    steps = iter([False] * 67 + [True] * 9)
    experiment = SupervisedExperiment(configs[:1], stacked=False)
    found = []
    while len(found) < 3:
        row = experiment.next_rows(lambda: next(steps, False))
        if row:
            found.append(row[0])
            continue
        state = json.loads(json.dumps(experiment.state_dicts([0])[0], default=lambda each: None))
        assert state["next_task"] == 1
        saved = experiment.state_dicts([0])[0]
        experiment = SupervisedExperiment(configs[:1], stacked=False)
        experiment.load_state_dict(0, saved)
    assert found == rows_of(configs[0])


def test_a_fresh_reference_gives_the_gap_of_the_losses():
    rows = rows_of(small(**{"tracking.reference_every": 1}))
    assert rows[0]["loss_gap"] == 0.0
    for row in rows:
        assert row["loss_gap"] == row["online_loss"] - row["reference_online_loss"]
        assert "plasticity_gap" not in row


def test_a_mitigation_of_distributions_over_classes_is_refused():
    config = small(method=(Churn(distance="kl"),))
    with pytest.raises(ValueError, match=r"churn compares distributions over classes, and slowly"):
        SupervisedExperiment([config], stacked=False)
    assert len(rows_of(small(method=(Churn(distance="squared"),)))) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_a_regression_compiles_to_the_same_numbers():
    config = small(**{"stream.num_tasks": 1})
    compiled = with_values(config, {"agent.compile": True})
    assert rows_of(compiled)[0]["online_loss"] == pytest.approx(rows_of(config)[0]["online_loss"])
