"""Pairs of classes: rounds in which each class has one partner, and labels 0 and 1, counted by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import StackedTask, stack
from plasticity.tasks.streams.class_pairs import ClassPairs, ClassPairsConfig, class_pair
from plasticity.tasks.streams.images import SelectedImages

DIGITS = load_dataset("digits")
# scikit-learn's digits: the smallest class is 8, with 174 images, of which every fifth, 34, is a test image
TRAIN, TEST = 140, 34


@given(st.integers(0, 2**80), st.integers(2, 12), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_class_is_in_one_pair_of_a_round(seed, num_classes, number):
    length = num_classes // 2
    pairs = [class_pair(num_classes, seed, number * length + place) for place in range(length)]
    found = sorted(label for pair in pairs for label in pair)
    assert len(set(found)) == len(found) == num_classes - num_classes % 2
    assert set(found) <= set(range(num_classes))


def test_rounds_are_drawn_anew():
    rounds = [tuple(class_pair(100, 0, 50 * k + place) for place in range(50)) for k in range(40)]
    assert len(set(rounds)) == 40
    # a pair of one round is one of the next with probability 1/99: of 39 * 50, 19.7 with a deviation of 4.4
    repeated = sum(
        len({frozenset(p) for p in one} & {frozenset(p) for p in other})
        for one, other in pairwise(rounds)
    )
    assert 2 <= repeated <= 40


def test_pairs_are_uniform():
    firsts = torch.tensor([class_pair(10, seed, 7)[0] for seed in range(500)]).bincount(
        minlength=10
    )
    # 50 of 500 each, with standard deviation sqrt(500 * 0.1 * 0.9) = 6.7
    assert (firsts - 50).abs().max() <= 30


def test_examples_and_labels_by_hand():
    stream = ClassPairs(DIGITS, 12, 4)
    for index, task in enumerate(stream):
        pair = stream.pair(index)
        assert stream.describe(index) == {"first_class": pair[0], "second_class": pair[1]}
        assert (task.num_train, task.num_test) == (2 * TRAIN, 2 * TEST)
        assert (task.spec.output_size, task.spec.active) == (2, None)
        images, labels = task.train_batch(torch.arange(2 * TRAIN))
        assert labels.bincount().tolist() == [TRAIN, TRAIN]
        own = torch.tensor(pair)[labels]  # the classes of the dataset
        rows = [
            row
            for each in pair
            for row in (DIGITS.train_labels == each).nonzero().flatten().tolist()[:TRAIN]
        ]
        assert torch.equal(own, DIGITS.train_labels[sorted(rows)])
        assert torch.equal(images, DIGITS.train_images[sorted(rows)].float().unsqueeze(1) / 16)
        tests = torch.cat([labels for _, labels in task.test_batches(7)])
        assert tests.bincount().tolist() == [TEST, TEST]
        shown = torch.cat([images for images, _ in task.test_batches(7)])
        chosen = [
            row
            for each in pair
            for row in (DIGITS.test_labels == each).nonzero().flatten().tolist()[:TEST]
        ]
        assert torch.equal(shown, DIGITS.test_images[sorted(chosen)].float().unsqueeze(1) / 16)
        assert torch.equal(torch.tensor(pair)[tests], DIGITS.test_labels[sorted(chosen)])


@given(st.integers(0, 2**80), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, length, other):
    first, second = (ClassPairs(DIGITS, n, seed, train_per_class=3) for n in (length, other))
    index = min(length, other) - 1
    assert first.describe(index) == second.describe(index)
    for name in ("train_rows", "train_labels", "test_rows", "test_labels"):
        assert torch.equal(getattr(first[index], name), getattr(second[index], name))


@pytest.mark.parametrize("shares", [True, False])
def test_stacked_batches_are_those_of_each(shares):
    copies = [DIGITS, DIGITS if shares else replace(DIGITS, test_labels=DIGITS.test_labels.clone())]
    streams = [ClassPairs(data, 9, seed) for data, seed in zip(copies, (1, 2), strict=True)]
    stacked, tasks = stack(streams)[7], [stream[7] for stream in streams]
    assert type(stacked) is (SelectedImages if shares else StackedTask)
    indices = torch.tensor([[3, 1, 14], [0, 0, 5]])
    for position, batch in enumerate(zip(*stacked.train_batch(indices), strict=True)):
        own = tasks[position].train_batch(indices[position])
        assert all(torch.equal(*pair) for pair in zip(batch, own, strict=True))
    apart = [list(task.test_batches(50)) for task in tasks]
    for batch, *own in zip(stacked.test_batches(50), *apart, strict=True):
        for part, each in enumerate(zip(*own, strict=True)):
            assert torch.equal(batch[part], torch.stack(each))


def test_wrong_settings():
    with pytest.raises(ValueError, match="train_per_class must be at least 1: 0"):
        ClassPairsConfig(dataset="digits", num_tasks=2, train_per_class=0)
    config = ClassPairsConfig(dataset="digits", num_tasks=2, train_per_class=141)
    with pytest.raises(ValueError, match="--train-per-class 141 is larger than the 140 training"):
        config.make(DIGITS, 0)
    with pytest.raises(ValueError, match="Pairs need at least two classes, not 1"):
        class_pair(1, 0, 0)
