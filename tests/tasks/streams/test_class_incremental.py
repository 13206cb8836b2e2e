"""Classes that arrive a few at a time: against the labels of the dataset, counted by hand."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.class_incremental import ClassIncremental, ClassIncrementalConfig

DIGITS = load_dataset("digits")
# scikit-learn's digits: the smallest class is 8, with 174 images, of which every fifth, 34, is a test image
TRAIN, TEST = 140, 34


def labels_of(task):
    """Return the labels of all training examples, and of all test examples."""
    train = task.train_batch(torch.arange(task.num_train))[1]
    return train, torch.cat([labels for _, labels in task.test_batches(100)])


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("classes_per_task", [1, 2, 3])
def test_classes_arrive_a_few_at_a_time(cumulative, classes_per_task):
    length = 10 // classes_per_task
    stream = ClassIncremental(
        DIGITS, length, 4, classes_per_task=classes_per_task, cumulative=cumulative
    )
    before = set()
    for index, task in enumerate(stream):
        seen = set(task.spec.active)
        assert len(seen) == classes_per_task * (index + 1)
        assert before < seen
        train, test = labels_of(task)
        learned = seen if cumulative else seen - before
        assert train.bincount(minlength=10).tolist() == [TRAIN * (k in learned) for k in range(10)]
        assert test.bincount(minlength=10).tolist() == [TEST * (k in seen) for k in range(10)]
        assert stream.describe(index) == {"num_classes": len(seen)}
        before = seen


def test_examples_are_the_first_of_their_class_and_in_the_order_of_the_dataset():
    task = ClassIncremental(DIGITS, 1, 0, classes_per_task=3, train_per_class=5)[0]
    rows = [
        row
        for each in task.spec.active
        for row in (DIGITS.train_labels == each).nonzero().flatten().tolist()[:5]
    ]
    images, labels = task.train_batch(torch.arange(15))
    assert task.num_train == 15
    assert torch.equal(images, DIGITS.train_images[sorted(rows)].float().unsqueeze(1) / 16)
    assert torch.equal(labels, DIGITS.train_labels[sorted(rows)])
    first = next(iter(task.test_batches(30)))[1]  # a probe has all classes
    assert set(first.tolist()) == set(task.spec.active)


def test_examples_for_validation_are_the_first_ones_and_are_not_trained_on():
    task = ClassIncremental(
        DIGITS, 1, 0, classes_per_task=3, train_per_class=5, validation_per_class=4
    )[0]
    by_class = [(DIGITS.train_labels == each).nonzero().flatten() for each in task.spec.active]
    expected = torch.cat([rows[:4] for rows in by_class]).sort().values
    assert task.num_validation == 12
    images, labels = zip(*task.validation_batches(5), strict=True)
    assert [len(each) for each in labels] == [5, 5, 2]
    assert torch.equal(torch.cat(labels), DIGITS.train_labels[expected])
    assert torch.equal(torch.cat(images), DIGITS.train_images[expected].float().unsqueeze(1) / 16)
    trained = torch.cat([rows[4:9] for rows in by_class]).sort().values
    assert torch.equal(task.train_rows, trained)
    assert ClassIncremental(DIGITS, 1, 0)[0].num_validation == 0
    left = ClassIncremental(DIGITS, 1, 0, validation_per_class=40)[0]
    assert left.num_train == 2 * (TRAIN - 40)


@given(st.integers(0, 2**80), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, length, other):
    first, second = (ClassIncremental(DIGITS, n, seed) for n in (length, other))
    index = min(length, other) - 1
    assert first[index].spec == second[index].spec
    assert torch.equal(first[index].train_rows, second[index].train_rows)


def test_orders_differ_from_seed_to_seed_uniformly():
    firsts = [
        ClassIncremental(DIGITS, 1, s, classes_per_task=1)[0].spec.active[0] for s in range(200)
    ]
    counts = torch.tensor(firsts).bincount(minlength=10)
    # 20 of 200 each, with standard deviation sqrt(200 * 0.1 * 0.9) = 4.2
    assert (counts - 20).abs().max() <= 17


def test_stacked_tasks_have_the_classes_of_each_seed():
    streams = [ClassIncremental(DIGITS, 5, seed) for seed in (0, 1, 2)]
    task = stack(streams)[1]
    assert task.spec.active == tuple(stream[1].spec.active for stream in streams)
    assert len(set(task.spec.active)) == 3
    indices = torch.arange(4 * TRAIN).expand(3, -1)
    for labels, active in zip(task.train_batch(indices)[1], task.spec.active, strict=True):
        assert set(labels.tolist()) == set(active)
    assert stack(streams)[4].spec.active == tuple(range(10))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"classes_per_task": 0}, ValueError, "classes_per_task must be at least 1: 0"),
        ({"train_per_class": 0}, ValueError, "train_per_class must be at least 1: 0"),
        ({"validation_per_class": -1}, ValueError, "validation_per_class must be at least 0: -1"),
        ({"augmentation": "flip"}, ValueError, "Unknown augmentation 'flip'"),
        ({"cumulative": 1}, TypeError, "cumulative must be True or False, not 1"),
    ],
)
def test_wrong_settings(changed, error, message):
    with pytest.raises(error, match=message):
        replace(ClassIncrementalConfig(dataset="digits", num_tasks=2), **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_tasks": 6}, "--tasks 6 of --classes-per-task 2 need 12 classes, and digits has 10"),
        ({"classes_per_task": 6}, "need 12 classes, and digits has 10: give at most 1 tasks"),
        ({"classes_per_task": 11}, "--classes-per-task 11 is larger than the 10 classes of digits"),
        (
            {"train_per_class": 141},
            "need 141 training images of each class, and the smallest of digits",
        ),
        ({"train_per_class": 101, "validation_per_class": 40}, "need 141 .* has 140: give at most"),
        ({"validation_per_class": 140}, "--train-per-class of at least 1 and --validation-per-cl"),
    ],
)
def test_too_few_classes_or_images_are_refused(changed, message):
    config = replace(ClassIncrementalConfig(dataset="digits", num_tasks=2), **changed)
    with pytest.raises(ValueError, match=message):
        config.make(DIGITS, 0)


def test_the_benchmark():
    config = BENCHMARKS["class-incremental"].config
    assert config.stream == ClassIncrementalConfig(dataset="mnist", num_tasks=5)
    assert read_config(json.loads(json.dumps(config.to_json()))) == config
