"""Renamed classes: permutations of the labels that are pure functions of seed and index."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.label_permuted import LabelPermuted, LabelPermutedConfig

DIGITS = load_dataset("digits")


def names_of(task):
    """Return the new name of each class, and check that all its images have it."""
    true = DIGITS.train_labels[task.train_rows]
    names = {}
    for old, new in zip(true.tolist(), task.train_labels.tolist(), strict=True):
        assert names.setdefault(old, new) == new
    return [names[old] for old in range(10)]


def test_classes_are_renamed_with_every_task_but_the_first():
    stream = LabelPermuted(DIGITS, 40, seed=3, num_examples=400)
    names = [names_of(task) for task in stream]
    assert names[0] == list(range(10))
    assert all(sorted(each) == list(range(10)) for each in names)
    assert len({tuple(each) for each in names}) == 40
    # a class keeps its name in 1 of 10 tasks: 39 of 390, standard deviation about 6
    kept = sum(each[old] == old for each in names[1:] for old in range(10))
    assert abs(kept - 39) < 30


def test_images_are_distinct_ones_and_drawn_anew():
    stream = LabelPermuted(DIGITS, 2, seed=0, num_examples=500)
    rows = [task.train_rows.tolist() for task in stream]
    assert all(len(set(each)) == 500 for each in rows)
    # 500 of 1442 twice: 173 in common, standard deviation 9
    assert abs(len(set(rows[0]) & set(rows[1])) - 173) < 50


@given(st.integers(0, 2**80), st.integers(0, 10**6), st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_a_task_is_a_pure_function_of_seed_and_index(seed, index, longer):
    stream = LabelPermuted(DIGITS, index + 1, seed, num_examples=40)
    other = LabelPermuted(DIGITS, index + 1 + longer, seed, num_examples=40)
    _ = other[0]
    assert torch.equal(stream[index].train_labels, other[index].train_labels)
    assert torch.equal(stream[index].train_rows, other[index].train_rows)


def test_stacked_tasks_are_those_of_each_seed():
    streams = [LabelPermuted(DIGITS, 3, seed, num_examples=50) for seed in (0, 1)]
    indices = torch.tensor([[3, 49], [0, 0]])
    found = stack(streams)[2].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[2].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


def test_wrong_settings():
    with pytest.raises(ValueError, match="num_examples must be at least 1: 0"):
        LabelPermutedConfig(dataset="digits", num_tasks=2, num_examples=0)
    config = LabelPermutedConfig(dataset="digits", num_tasks=2, num_examples=1443)
    with pytest.raises(ValueError, match=r"--examples 1443 is larger than the 1442 .* of digits"):
        config.make(DIGITS, 0)
