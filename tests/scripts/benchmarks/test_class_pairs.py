"""Benchmarks of pairs of classes: the published settings, and whole runs on images that are made here."""

import json

import numpy as np
import pytest
import torch

from plasticity.agents.networks import VGG
from plasticity.mitigations import ContinualBackprop, CReLU, LayerNorm, WeightDecay
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run.supervised_experiment import SupervisedExperiment, initial_network
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec

CIFAR, FILES = BENCHMARKS["binary-pairs-cifar"], BENCHMARKS["binary-pairs"]
SMALL = {
    "stream.num_tasks": 3,
    "network.channels": (2, 2),
    "network.kernel_sizes": (3,),
    "network.hidden": (4,),
    "agent.batch_size": 5,
    "agent.epochs_per_task": 2,
    "tracking.probe_size": 4,
    "tracking.metrics": ("dead_fraction",),
}
PUBLISHED = [(CIFAR, "nature"), (FILES, "nature")]


@pytest.fixture(scope="module")
def images():
    """Six classes of 6 training and 3 test images, each class of a brightness of its own."""

    def split(count, seed):
        labels = torch.arange(6).repeat(count)
        noise = torch.randint(
            99, (len(labels), 3, 14, 14), generator=torch.Generator().manual_seed(seed)
        )
        return (noise + 25 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels

    return ImageDataset("made", *split(6, 0), *split(3, 1), num_classes=6)


def small(benchmark=CIFAR, seed=0, **values):
    return with_values(benchmark.config, {**SMALL, "seed": seed, **values})


def rows_of(config, data):
    experiment = SupervisedExperiment([config], stacked=False, data=data)
    return [experiment.next_rows(lambda: False)[0] for _ in range(config.stream.num_tasks)]


@pytest.mark.parametrize(("benchmark", "preset"), PUBLISHED)
def test_the_settings_of_dohare(benchmark, preset):
    chosen = benchmark.with_presets({"preset": preset})
    config = chosen.config
    agent = config.agent
    assert config.stream.num_tasks == 2000
    assert (agent.optimizer, agent.learning_rate, agent.momentum) == ("sgd", 0.01, 0.9)
    assert (agent.batch_size, agent.epochs_per_task, agent.output_layer) == (100, 250, "zeroed")
    assert chosen.mitigation("cbp").replacement_rate == 3e-4
    assert chosen.mitigation("cbp").maturity_threshold == 100
    assert chosen.mitigation("cbp").utility == "adaptable-contribution"  # lop/imagenet/cfg/cbp.json
    assert chosen.mitigation("weight-decay").strength == 1e-5
    assert chosen.mitigation("weight-noise").deviation == 1e-5
    network = initial_network(config, TaskSpec(input_shape=(3, 32, 32), output_size=2))
    shapes = [tuple(each.shape) for name, each in network.named_parameters() if "weight" in name]
    assert shapes == [
        (32, 3, 5, 5),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
        (128, 512),
        (128, 128),
        (2, 128),
    ]


def test_the_settings_of_kumar():
    chosen = FILES.with_presets({"preset": "kumar"})
    config = chosen.config
    agent = config.agent
    assert config.stream.num_tasks == 500
    assert (agent.optimizer, agent.learning_rate, agent.momentum) == ("adam", 1e-3, 0.0)
    # 1200 images: 12 steps of 100 in each of 10 epochs
    assert (agent.batch_size, agent.epochs_per_task, agent.output_layer) == (100, 10, "kept")
    assert chosen.mitigation("l2-init").strength == 1e-3
    # nothing of Dohare's is left
    assert chosen.mitigation("weight-decay") == WeightDecay()
    assert chosen.mitigation("cbp") == ContinualBackprop(utility="adaptable-contribution")
    network = initial_network(config, TaskSpec(input_shape=(3, 32, 32), output_size=2))
    shapes = [tuple(each.shape) for name, each in network.named_parameters() if "weight" in name]
    assert shapes == [(16, 3, 5, 5), (16, 16, 5, 5), (100, 400), (100, 100), (2, 100)]


@pytest.mark.parametrize("benchmark", [CIFAR, FILES])
def test_every_preset_is_read_back(benchmark):
    for name in benchmark.presets["preset"].groups:
        config = benchmark.with_presets({"preset": name}).config
        assert read_config(json.loads(json.dumps(config.to_json()))) == config


def test_stacked_runs_are_those_alone_and_a_stopped_run_continues_exactly(images):
    configs = [small(seed=seed) for seed in (0, 1)]
    stacked = SupervisedExperiment(configs, stacked=True, data=images)
    rows = [stacked.next_rows(lambda: False) for _ in range(3)]
    expected = [rows_of(config, images) for config in configs]
    for run, own in enumerate(expected):
        for row, each in zip(rows, own, strict=True):
            assert row[run] == pytest.approx(each, rel=1e-3)
    # 12 training images: 3 steps in each of 2 epochs; stopped at the beginning of a task, and within one
    steps = iter([False] * 6 + [True] + [False] * 4 + [True])
    experiment = SupervisedExperiment(configs[:1], stacked=False, data=images)
    found, states = [], []
    while len(found) < 3:
        row = experiment.next_rows(lambda: next(steps, False))
        if row:
            found.append(row[0])
            continue
        states.append(experiment.state_dicts([0])[0])
        experiment = SupervisedExperiment(configs[:1], stacked=False, data=images)
        experiment.load_state_dict(0, states[-1])
    assert [each["classifier"]["step"] for each in states] == [0, 4]
    assert found == expected[0]


def test_the_first_example_of_a_task_is_classified_by_zeros(images):
    """With a learning rate of almost 0, a zeroed layer stays at a loss of log 2 in every task."""
    rows = rows_of(small(**{"agent.learning_rate": 1e-30}), images)
    assert [row["train_loss"] for row in rows] == pytest.approx([np.log(2)] * 3)
    kept = rows_of(small(**{"agent.learning_rate": 1e-30, "agent.output_layer": "kept"}), images)
    assert kept[0]["train_loss"] != pytest.approx(np.log(2))


def test_a_run_on_files_of_classes(tmp_path):
    for label in range(4):
        values = np.random.default_rng(label).integers(0, 100, (9, 3, 14, 14)) + 50 * label
        np.save(tmp_path / f"{label}.npy", values.astype(np.uint8))
    config = small(
        FILES,
        **{
            "stream.data_dir": str(tmp_path),
            "stream.num_classes": 4,
            "stream.train_per_class": 6,
            "stream.test_per_class": 3,
            "stream.pixels": "unit",
        },
    )
    rows = rows_of(config, None)
    pairs = [{row["first_class"], row["second_class"]} for row in rows]
    assert pairs[0] | pairs[1] == {0, 1, 2, 3}
    assert all(0 <= row["test_accuracy"] <= 1 for row in rows)


@pytest.mark.parametrize("network", [None, VGG(channels=(2, 4), hidden=(4,), batch_norm=True)])
@pytest.mark.parametrize(
    "mitigation",
    [ContinualBackprop(replacement_rate=0.2, maturity_threshold=2), LayerNorm(), CReLU()],
    ids=lambda each: each.name,
)
def test_mitigations_act_on_the_networks(images, network, mitigation):
    config = small(method=(mitigation,))
    if network is not None:
        config = with_values(config, {"network": network})
    rows = rows_of(config, images)
    assert not any(row["diverged"] for row in rows)
    if mitigation.name == "cbp":
        layers = {key for key in rows[-1] if key.startswith("reset_units/")}
        expected = (
            ["conv1", "conv2", "fc1"] if network is None else [f"conv{n}" for n in range(1, 5)]
        )
        assert {f"reset_units/{name}" for name in expected} <= layers
        assert sum(row[key] for row in rows for key in layers) > 0
