"""Streams of images: settings, and tasks that select examples, against indexing by hand."""

from dataclasses import replace

import pytest
import torch

from plasticity.tasks.datasets.images import ImageDataset, load_dataset
from plasticity.tasks.streams.base import StackedTask, TaskSpec, stack
from plasticity.tasks.streams.class_incremental import ClassIncremental
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
)
from plasticity.tasks.streams.permuted_images import PermutedImages
from plasticity.tasks.streams.random_labels import RandomLabels

DIGITS = load_dataset("digits")


class EveryOther(SelectedImagesStream):
    """Task k: images seed, seed + 2, … with labels shifted by k, the tests of one class."""

    test_size = 9

    def make_task(self, index):
        rows = torch.arange(self.seed, 40, 2)[:15]
        own = int(self.seed) % 10
        return SelectedImages(
            index,
            TaskSpec(input_shape=(1, 8, 8), output_size=10, active=(own, 9) if own < 9 else None),
            self.dataset,
            rows,
            (self.dataset.train_labels[rows] + index) % 10,
            (self.dataset.test_labels == own).nonzero().flatten()[: self.test_size],
        )


class Untested(EveryOther):
    test_size = 0


def test_batches_are_the_selected_examples():
    task = EveryOther(DIGITS, 3, seed=1)[2]
    assert (task.num_train, task.num_test) == (15, 9)
    images, labels = task.train_batch(torch.tensor([14, 0, 0]))
    chosen = [29, 1, 1]
    assert torch.equal(images, DIGITS.train_images[chosen].float().unsqueeze(1) / 16)
    assert torch.equal(labels, (DIGITS.train_labels[chosen] + 2) % 10)
    batches = list(task.test_batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [1] * 9
    expected = DIGITS.test_images[DIGITS.test_labels == 1][:9].float().unsqueeze(1) / 16
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_an_empty_test_set_has_no_batches():
    task = Untested(DIGITS, 1, seed=1)[0]
    assert task.num_test == 0
    assert list(task.test_batches(4)) == []


@pytest.mark.parametrize("kind", [EveryOther, Untested])
@pytest.mark.parametrize("shares", [True, False])
def test_stacked_batches_are_those_of_each(kind, shares):
    copies = [DIGITS, DIGITS if shares else replace(DIGITS, test_labels=DIGITS.test_labels.clone())]
    streams = [kind(data, 3, seed) for data, seed in zip(copies, (1, 4), strict=True)]
    stacked, tasks = stack(streams)[1], [stream[1] for stream in streams]
    assert type(stacked) is (SelectedImages if shares else StackedTask)
    assert (stacked.index, stacked.num_train, stacked.num_test) == (1, 15, tasks[0].num_test)
    assert stacked.spec.active == ((1, 9), (4, 9))
    indices = torch.tensor([[3, 1, 14], [0, 0, 5]])
    for position, batch in enumerate(zip(*stacked.train_batch(indices), strict=True)):
        for found, expected in zip(
            batch, tasks[position].train_batch(indices[position]), strict=True
        ):
            assert torch.equal(found, expected)
    found = list(stacked.test_batches(4))
    apart = [list(task.test_batches(4)) for task in tasks]
    assert len(found) == len(apart[0])
    for batch, *own in zip(found, *apart, strict=True):
        for part, each in enumerate(zip(*own, strict=True)):
            assert torch.equal(batch[part], torch.stack(each))


def test_a_subclass_with_batches_of_its_own_keeps_them_in_a_stack():
    class Bright(SelectedImages):
        def train_batch(self, indices):
            images, labels = super().train_batch(indices)
            return 1 - images, labels

    class Brights(EveryOther):
        def make_task(self, index):
            return Bright(**vars(super().make_task(index)))

    stacked = stack([Brights(DIGITS, 1, seed) for seed in (1, 4)])[0]
    indices = torch.tensor([[3], [3]])
    plain = stack([EveryOther(DIGITS, 1, seed) for seed in (1, 4)])[0].train_batch(indices)[0]
    assert torch.equal(stacked.train_batch(indices)[0], 1 - plain)


def test_settings_load_their_images():
    config = ImageStreamConfig(dataset="digits", num_tasks=2)
    assert torch.equal(config.load().train_images, DIGITS.train_images)
    assert config.modules == ("sklearn.datasets",)
    assert ImageStreamConfig(dataset="mnist", num_tasks=2).modules == ()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_tasks": 0}, ValueError, "num_tasks must be at least 1: 0"),
        ({"dataset": 3}, TypeError, "dataset must be a name"),
        ({"data_dir": 3}, TypeError, "data_dir must be the name of a folder or None, not 3"),
    ],
)
def test_wrong_settings(changed, error, message):
    with pytest.raises(error, match=message):
        ImageStreamConfig(**{"dataset": "digits", "num_tasks": 2, **changed})


def test_images_in_colour_keep_their_channels():
    train, test = (torch.arange(n * 12, dtype=torch.uint8).view(n, 3, 2, 2) for n in (6, 2))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    data = ImageDataset("colour", train, labels, test, labels[:2], num_classes=2)
    tasks = [
        ClassIncremental(data, 2, seed=0, classes_per_task=1)[1],
        RandomLabels(data, 2, seed=0, num_examples=4)[1],
        PermutedImages(data, 2, seed=0)[1],
        stack([PermutedImages(data, 2, seed) for seed in (0, 1)])[1],
    ]
    for task in tasks:
        assert task.spec.input_shape == (3, 2, 2)
    classes, random, permuted, stacked = tasks
    rows = torch.tensor([3, 0])
    assert torch.equal(classes.train_batch(rows)[0], train[rows].float() * (1 / 255))
    assert torch.equal(random.train_batch(rows)[0], train[random.train_rows[rows]] * (1 / 255))
    # A pixel moves with its channels: the same order for each.
    order = permuted.permutation
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    expected = train[rows].flatten(2)[:, :, order].view(2, 3, 2, 2) * (1 / 255)
    assert torch.equal(permuted.train_batch(rows)[0], expected)
    found = stacked.train_batch(torch.stack([rows, rows]))[0]
    assert torch.equal(found[0], expected)
    other = PermutedImages(data, 2, seed=1)[1]
    assert torch.equal(found[1], other.train_batch(rows)[0])
    assert torch.equal(
        next(iter(stacked.test_batches(2)))[0][1], next(iter(other.test_batches(2)))[0]
    )
