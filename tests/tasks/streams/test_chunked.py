"""Chunks of a dataset: sizes, order, purity."""

from itertools import chain, pairwise

import pytest
import torch

from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.chunked import Chunked, ChunkedConfig

DIGITS = load_dataset("digits")


def test_chunks_add_up_to_the_training_set():
    stream = Chunked(DIGITS, 10, seed=1)
    rows = [task.train_rows for task in stream]
    assert [len(each) for each in rows] == [144 * count for count in range(1, 11)]  # of 1442
    for before, after in pairwise(rows):
        assert torch.equal(after[: len(before)], before)
    assert len(set(rows[-1].tolist())) == 1440
    assert stream.describe(3) == {"examples": 576}
    assert stream[0].num_test == 355


def test_chunks_by_themselves_share_nothing():
    stream = Chunked(DIGITS, 4, seed=1, chunks=8, cumulative=False)
    rows = [task.train_rows.tolist() for task in stream]
    assert [len(each) for each in rows] == [180] * 4
    assert len(set(chain.from_iterable(rows))) == 720
    assert stream.describe(3) == {"examples": 180}


def test_tasks_depend_on_the_seed_and_not_on_their_number():
    first = Chunked(DIGITS, 3, seed=1)[2]
    assert torch.equal(first.train_rows, Chunked(DIGITS, 9, seed=1)[2].train_rows)
    assert not torch.equal(first.train_rows, Chunked(DIGITS, 3, seed=2)[2].train_rows)
    assert torch.equal(first.train_labels, DIGITS.train_labels[first.train_rows])


def test_stacked_tasks_are_those_of_each_seed():
    streams = [Chunked(DIGITS, 3, seed) for seed in (0, 1)]
    indices = torch.tensor([[3, 400], [0, 0]])
    found = stack(streams)[2].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[2].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


def test_wrong_settings():
    with pytest.raises(ValueError, match="--tasks 11 is more than --chunks 10: give at most 10"):
        ChunkedConfig(dataset="digits", num_tasks=11)
    config = ChunkedConfig(dataset="digits", num_tasks=3, chunks=2000)
    with pytest.raises(ValueError, match="--chunks 2000 is larger than the 1442 training images"):
        config.make(DIGITS, 0)
