"""Random labels: the same images in every task, with labels that are pure functions of seed and index."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.draws import random_integers
from plasticity.tasks.streams.random_labels import RandomLabels, RandomLabelsConfig

DIGITS = load_dataset("digits")
EVERY = torch.arange(1200)


def test_images_stay_and_labels_change():
    stream = RandomLabels(DIGITS, 3, seed=5)
    batches = [task.train_batch(EVERY) for task in stream]
    for images, _ in batches:
        assert torch.equal(images, batches[0][0])
    # of two independent labels over 10 classes, 1 in 10 agree: 120 of 1200, standard deviation 10.4
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert abs(int((batches[first][1] == batches[second][1]).sum()) - 120) < 52
    true = DIGITS.train_labels[stream[0].train_rows]
    assert abs(int((batches[0][1] == true).sum()) - 120) < 52  # from the first task on


def test_images_are_distinct_ones_of_the_training_set_and_those_of_the_seed():
    rows = [RandomLabels(DIGITS, 1, seed)[0].train_rows for seed in (0, 1, 2**70)]
    for each in rows:
        assert len(set(each.tolist())) == 1200
        assert 0 <= int(each.min()) <= int(each.max()) < 1442
    assert len({tuple(each.tolist()) for each in rows}) == 3
    fewer = RandomLabels(DIGITS, 1, 0, num_examples=7)[0].train_rows
    assert torch.equal(fewer, rows[0][:7])


@given(st.integers(0, 2**80), st.integers(0, 10**6), st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, index, longer):
    stream = RandomLabels(DIGITS, index + 1, seed, num_examples=40)
    other = RandomLabels(DIGITS, index + 1 + longer, seed, num_examples=40)
    _ = [other[k] for k in range(min(3, len(other)))]
    assert torch.equal(stream[index].train_labels, other[index].train_labels)
    assert torch.equal(stream[index].train_labels, random_integers(40, 10, seed, index))


def test_permuted_labels_are_the_true_ones_in_another_order():
    stream = RandomLabels(DIGITS, 4, seed=2, num_examples=600, labels="permuted")
    true = DIGITS.train_labels[stream[0].train_rows]
    labels = [task.train_labels for task in stream]
    for each in labels:
        assert torch.equal(torch.bincount(each), torch.bincount(true))
        # of two permutations of about equal classes, 1 in 10 agrees: 60, standard deviation about 7.3
        assert abs(int((each == true).sum()) - 60) < 37
    assert not torch.equal(labels[1], labels[2])
    assert torch.equal(
        RandomLabels(DIGITS, 9, 2, num_examples=600, labels="permuted")[3].train_labels, labels[3]
    )


def test_there_is_no_test_set():
    task = RandomLabels(DIGITS, 1, seed=0)[0]
    assert task.num_test == 0
    assert list(task.test_batches(10)) == []
    assert (task.num_train, task.spec.output_size, task.spec.active) == (1200, 10, None)


def test_stacked_tasks_are_those_of_each_seed():
    streams = [RandomLabels(DIGITS, 3, seed) for seed in (0, 1)]
    indices = torch.tensor([[3, 1199], [0, 0]])
    found = stack(streams)[2].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[2].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_examples": 0}, ValueError, "num_examples must be at least 1: 0"),
        ({"labels": "permute"}, ValueError, "Unknown labels 'permute'. Did you mean 'permuted'"),
        ({"num_examples": 1.5}, TypeError, "num_examples must be an integer, not 1.5"),
    ],
)
def test_wrong_settings(changed, error, message):
    config = RandomLabelsConfig(dataset="digits", num_tasks=2)
    with pytest.raises(error, match=message):
        replace(config, **changed)


def test_more_images_than_there_are_is_refused():
    config = RandomLabelsConfig(dataset="digits", num_tasks=2, num_examples=1443)
    with pytest.raises(ValueError, match=r"--examples 1443 is larger than the 1442 .* of digits"):
        config.make(DIGITS, 0)


def test_the_benchmark():
    config = BENCHMARKS["random-labels"].config
    assert config.stream == RandomLabelsConfig(dataset="mnist", num_tasks=50, num_examples=1200)
    assert read_config(json.loads(json.dumps(config.to_json()))) == config
