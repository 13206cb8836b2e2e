"""Benchmarks of classes that arrive: the published settings, and whole runs on images that are made here."""

import json

import pytest
import torch
from torch import nn

from plasticity.initialization import Constant, Normal
from plasticity.mitigations import ContinualBackprop, WeightDecay, WeightNoise
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment, initial_network
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec

BENCHMARK = BENCHMARKS["class-incremental-cifar100"]
SMALL = {
    "stream.num_tasks": 2,
    "stream.train_per_class": 8,
    "stream.validation_per_class": 4,
    "network.width": 2,
    "network.blocks": (1,),
    "agent.batch_size": 10,
    "agent.epochs_per_task": 3,
    "agent.learning_rate_drops": (1, 2),
    "tracking.probe_size": 12,
    "tracking.metrics": ("dead_fraction",),
}


@pytest.fixture(scope="module")
def images():
    """A hundred classes of 12 training and 3 test images, each class of a brightness of its own."""

    def split(count, seed):
        labels = torch.arange(100).repeat(count)
        noise = torch.randint(
            80, (len(labels), 3, 12, 12), generator=torch.Generator().manual_seed(seed)
        )
        return (noise + labels.view(-1, 1, 1, 1)).to(torch.uint8), labels

    return ImageDataset("made", *split(12, 0), *split(3, 1), num_classes=100)


def small(seed=0, **values):
    return with_values(BENCHMARK.config, {**SMALL, "seed": seed, **values})


def rows_of(config, data):
    experiment = SupervisedExperiment([config], stacked=False, data=data)
    return [experiment.next_rows(lambda: False)[0] for _ in range(config.stream.num_tasks)]


def test_the_published_settings():
    config = BENCHMARK.with_presets({"preset": "nature"}).config
    stream, agent = config.stream, config.agent
    assert stream.num_tasks * stream.classes_per_task == 100
    assert (stream.classes_per_task, stream.cumulative) == (5, True)
    assert (stream.validation_per_class, stream.train_per_class) == (50, None)  # 50 and 450 of 500
    assert (stream.augmentation, stream.pixels) == ("flip-crop-rotate", "standardized")
    assert (agent.optimizer, agent.learning_rate, agent.momentum) == ("sgd", 0.1, 0.9)
    assert (agent.batch_size, agent.epochs_per_task, agent.keep_best) == (90, 200, True)
    rates = [agent.learning_rate * agent.learning_rate_share(e) for e in (0, 59, 60, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008])
    assert BENCHMARK.mitigation("weight-decay") == WeightDecay(strength=5e-4)
    assert BENCHMARK.mitigation("weight-noise") == WeightNoise(deviation=1e-5)
    assert BENCHMARK.mitigation("cbp") == ContinualBackprop(
        utility="contribution", replacement_rate=1e-5, maturity_threshold=1000
    )
    network = initial_network(config, TaskSpec(input_shape=(3, 32, 32), output_size=100))
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(layers) == 21  # ResNet-18 with its three shortcuts
    assert not any(each.bias.any() for each in layers)
    declared = network.initialization()
    for name, variance in (("stage1.0.conv1.weight", 2 / (64 * 9)), ("output.weight", 1 / 512)):
        assert isinstance(declared[name], Normal)
        assert declared[name].deviation ** 2 == pytest.approx(variance)
    assert declared["stem.normalization.weight"] == Constant(1.0)


def test_every_preset_is_read_back():
    for name in BENCHMARK.presets["preset"].groups:
        config = BENCHMARK.with_presets({"preset": name}).config
        assert read_config(json.loads(json.dumps(config.to_json()))) == config


def test_stacked_runs_are_those_alone_and_a_stopped_run_continues_exactly(images):
    configs = [small(seed) for seed in (0, 1)]
    stacked = SupervisedExperiment(configs, stacked=True, data=images)
    rows = [stacked.next_rows(lambda: False) for _ in range(2)]
    expected = [rows_of(config, images) for config in configs]
    for run, own in enumerate(expected):
        for row, each in zip(rows, own, strict=True):
            assert row[run] == pytest.approx(each, rel=1e-3)
    # tasks of 32 and 64 examples: 4 and 7 steps in each of 3 epochs; stopped in the second task, in between
    # two epochs and within one
    steps = iter([False] * 19 + [True] + [False] * 3 + [True])
    experiment = SupervisedExperiment(configs[:1], stacked=False, data=images)
    found, states = [], []
    while len(found) < 2:
        row = experiment.next_rows(lambda: next(steps, False))
        if row:
            found.append(row[0])
            continue
        states.append(experiment.state_dicts([0])[0])
        experiment = SupervisedExperiment(configs[:1], stacked=False, data=images)
        experiment.load_state_dict(0, states[-1])
    assert [each["classifier"]["step"] for each in states] == [7, 10]
    assert all(each["classifier"]["best"] is not None for each in states)
    assert found == expected[0]


def test_a_fresh_network_learns_the_first_task_as_the_run_does(images):
    rows = rows_of(small(**{"tracking.reference_every": 1}), images)
    assert rows[0]["plasticity_gap"] == 0.0
    assert rows[0]["online_accuracy"] == rows[0]["reference_online_accuracy"]
    assert rows[1]["online_accuracy"] != rows[1]["reference_online_accuracy"]
    assert [row["num_classes"] for row in rows] == [4, 8]


def test_the_best_weights_need_examples_for_validation(images):
    config = small(**{"stream.validation_per_class": 0})
    with pytest.raises(ValueError, match="--keep-best needs examples for validation"):
        SupervisedExperiment([config], stacked=False, data=images)


def test_mnist():
    config = BENCHMARKS["class-incremental"].config
    assert (config.stream.dataset, config.stream.num_tasks, config.stream.classes_per_task) == (
        "mnist",
        5,
        2,
    )
