"""Augmented images: the same for the same epoch, by hand, alone and stacked, in training only."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.tasks.datasets.augmentations import rotated
from plasticity.tasks.datasets.images import load_dataset
from plasticity.tasks.streams.augmented import AugmentedImages, flipped_cropped_rotated
from plasticity.tasks.streams.base import EpochTask, StackedTask, ValidatedTask, stack
from plasticity.tasks.streams.class_incremental import ClassIncremental

DIGITS = load_dataset("digits")
SETTINGS = {"augmentation": "flip-crop-rotate", "validation_per_class": 5, "train_per_class": 20}


def task_of(seed=0, index=1, **changes):
    return ClassIncremental(DIGITS, 5, seed, **{**SETTINGS, **changes})[index]


def images_of(task, count=40):
    return task.train_batch(torch.arange(count))[0]


def test_an_image_by_hand():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    middle = 4.5 / 9  # 4 of the shifts from 0 to 8 moves nothing
    same = flipped_cropped_rotated(image, torch.tensor([[0.5, middle, middle, 0.0]]))
    torch.testing.assert_close(same, image)
    mirrored = flipped_cropped_rotated(image, torch.tensor([[0.49, middle, middle, 0.0]]))
    torch.testing.assert_close(mirrored, image.flip(-1))
    # a shift of 0 takes the padded rows -4 to 3: rows 4, 3, 2, 1 reflected about row 0, then 0 to 3
    up = flipped_cropped_rotated(image, torch.tensor([[0.5, 0.0, middle, 0.0]]))
    torch.testing.assert_close(up, image[:, :, [4, 3, 2, 1, 0, 1, 2, 3]])
    # the last shift takes columns 4 to 11: 4 to 7, then 6, 5, 4, 3
    right = flipped_cropped_rotated(image, torch.tensor([[0.5, middle, 0.999, 0.0]]))
    torch.testing.assert_close(right, image[:, :, :, [4, 5, 6, 7, 6, 5, 4, 3]])
    turned = flipped_cropped_rotated(image, torch.tensor([[0.5, middle, middle, 0.9]]))
    torch.testing.assert_close(turned, rotated(image, torch.tensor([13.5])))
    assert not torch.equal(turned, image)


def test_an_epoch_is_a_function_of_seed_task_epoch_and_example():
    task = task_of()
    assert isinstance(task, EpochTask)
    first = images_of(task.in_epoch(3))
    assert torch.equal(first, images_of(task_of().in_epoch(2).in_epoch(3)))
    indices = torch.tensor([7, 0, 31])  # of any batch
    assert torch.equal(task.in_epoch(3).train_batch(indices)[0], first[indices])
    for other in (task.in_epoch(4), task_of(seed=1).in_epoch(3), task_of(index=2).in_epoch(3)):
        assert not torch.equal(images_of(other), first)
    draws = task_of(seed=1).in_epoch(3).draws
    assert not torch.equal(draws, task.in_epoch(3).draws)
    assert not torch.equal(task_of(index=2).in_epoch(3).draws[:40], task.in_epoch(3).draws[:40])


def test_only_training_images_of_an_epoch_change():
    task, plain = task_of(), task_of(augmentation="none")
    assert isinstance(task, AugmentedImages)
    assert torch.equal(images_of(task), images_of(plain))
    shown = task.in_epoch(0)
    for name in ("index", "spec", "num_train", "num_test", "num_validation"):
        assert getattr(shown, name) == getattr(plain, name)
    assert torch.equal(
        shown.train_batch(torch.arange(40))[1], plain.train_batch(torch.arange(40))[1]
    )
    for kind in ("test_batches", "validation_batches"):
        for one, other in zip(getattr(shown, kind)(9), getattr(plain, kind)(9), strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@given(st.integers(0, 2**80), st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_draws_are_uniform_numbers_below_1(seed, epoch):
    draws = task_of(seed, index=4).in_epoch(epoch).draws
    assert draws.shape == (200, 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    # the mean of 800 uniform numbers has a standard deviation of 0.0102
    assert draws.mean().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("shares", [True, False])
def test_stacked_batches_are_those_of_each(shares):
    copies = [DIGITS, DIGITS if shares else replace(DIGITS, test_labels=DIGITS.test_labels.clone())]
    streams = [
        ClassIncremental(data, 5, seed, **SETTINGS)
        for data, seed in zip(copies, (1, 4), strict=True)
    ]
    stacked, tasks = stack(streams)[1], [stream[1] for stream in streams]
    assert type(stacked) is (AugmentedImages if shares else StackedTask)
    assert isinstance(stacked, ValidatedTask)
    assert stacked.num_validation == tasks[0].num_validation == 20
    indices = torch.tensor([[3, 1, 14], [0, 0, 5]])
    for epoch in (0, 5):
        images, labels = stacked.in_epoch(epoch).train_batch(indices)
        for position, task in enumerate(tasks):
            own = task.in_epoch(epoch).train_batch(indices[position])
            torch.testing.assert_close(images[position], own[0])
            assert torch.equal(labels[position], own[1])
    for batch, *own in zip(
        stacked.validation_batches(8), *[task.validation_batches(8) for task in tasks], strict=True
    ):
        for part, each in enumerate(zip(*own, strict=True)):
            assert torch.equal(batch[part], torch.stack(each))


def test_stacked_tasks_of_which_only_some_have_validation_have_none():
    tasks = (task_of(), task_of(validation_per_class=0))
    assert StackedTask(tasks).num_validation == 0
