"""Gradual changes: which examples are of the task before, and how many."""

import pytest
import torch

from plasticity.tasks.datasets.images import ImageDataset, load_dataset
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.gradual import Gradual, GradualConfig
from plasticity.tasks.streams.permuted_images import PermutedImages

DIGITS = load_dataset("digits")
EVERY = torch.arange(1200)


def config(**settings):
    return GradualConfig(dataset="digits", **{"num_tasks": 12, "segments": 4, **settings})


def test_shares_fall_linearly_over_the_transition():
    stream = config(segments=8, num_tasks=24, transition=0.5).make(DIGITS, 1)
    shares = [stream.describe(k)["share_before"] for k in range(16)]
    # 4 of 8 segments: 4/5, 3/5, 2/5, 1/5; the first task has none before it
    assert shares == pytest.approx([0] * 8 + [0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    assert [stream.describe(k)["base_task"] for k in (0, 7, 8, 23)] == [0, 0, 1, 2]


@pytest.mark.parametrize("base", ["permuted-images", "random-labels", "label-permuted"])
def test_examples_are_those_of_one_of_two_neighbours(base):
    stream = config(base=base, transition=0.75, num_examples=1200).make(DIGITS, 3)
    for index in (4, 5, 6, 7):
        task = stream[index]
        inputs, labels = task.train_batch(EVERY)
        old_inputs, old_labels = stream._base[0].train_batch(EVERY)
        new_inputs, new_labels = stream._base[1].train_batch(EVERY)
        is_old = task.is_before
        assert torch.equal(inputs[is_old], old_inputs[is_old])
        assert torch.equal(labels[is_old], old_labels[is_old])
        assert torch.equal(inputs[~is_old], new_inputs[~is_old])
        assert torch.equal(labels[~is_old], new_labels[~is_old])
        share = stream.describe(index)["share_before"]
        assert is_old.double().mean().item() == pytest.approx(
            share, abs=5 * (0.25 / 1200) ** 0.5 if share else 0
        )


def test_an_abrupt_change_has_as_many_segments():
    stream = config(transition=0.0).make(DIGITS, 3)
    assert len(stream) == 12
    for index in range(12):
        task = stream[index]
        assert not task.is_before.any()
        base = stream._base[index // 4]
        assert torch.equal(task.train_batch(EVERY)[0], base.train_batch(EVERY)[0])


def test_tests_are_those_of_the_current_task():
    stream = config().make(DIGITS, 3)
    found = next(stream[4].test_batches(50))
    expected = next(stream._base[1].test_batches(50))
    assert torch.equal(found[0], expected[0])
    assert stream[4].num_test == stream._base[1].num_test


def test_a_segment_is_a_pure_function_of_seed_and_index():
    first, second = config().make(DIGITS, 3)[5], config(num_tasks=40).make(DIGITS, 3)[5]
    for one, other in zip(first.train_batch(EVERY), second.train_batch(EVERY), strict=True):
        assert torch.equal(one, other)
    other = config().make(DIGITS, 4)[5]
    assert not torch.equal(first.is_before, other.is_before)


def test_stacked_segments_are_those_of_each_seed():
    streams = [config().make(DIGITS, seed) for seed in (0, 1)]
    indices = torch.tensor([[3, 400], [0, 0]])
    found = stack(streams)[5].train_batch(indices)
    for position, stream in enumerate(streams):
        for one, all_ in zip(stream[5].train_batch(indices[position]), found, strict=True):
            assert torch.equal(all_[position], one)


def test_wrong_settings():
    for changed, message in (
        ({"transition": 1.5}, "transition must be at most 1, not 1.5"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"base": "permuted"}, "Unknown base 'permuted'"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changed)
    with pytest.raises(
        ValueError, match="12 segments, 4 of each task, need 3 tasks: the base stream has 2"
    ):
        Gradual(PermutedImages(DIGITS, 2, 0), 12, segments=4)


@pytest.mark.parametrize("base", ["permuted-images", "random-labels", "label-permuted"])
def test_indices_are_on_the_device_of_the_images(base, monkeypatch):
    # a device without numbers, which cannot be checked; and unlike a GPU, it takes indices of the CPU
    monkeypatch.setattr(ImageDataset, "_check_split", lambda *_: None)
    stream = config(base=base).make(DIGITS.to("meta"), 3)
    kind = type(stream._base[0])
    plain = kind.train_batch

    def of_one_device(task, indices):
        assert indices.device == task.dataset.train_images.device
        return plain(task, indices)

    monkeypatch.setattr(kind, "train_batch", of_one_device)
    task = stream[4]
    images, labels = task.train_batch(EVERY.to("meta"))
    assert {each.device.type for each in (task.is_before, images, labels)} == {"meta"}
