"""Augmentation of training images, anew in every epoch: a pure function of seed, task, epoch and example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from plasticity.tasks.datasets.augmentations import rotated, shifted_crop
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.draws import random_uniforms
from plasticity.tasks.streams.images import SelectedImages

Augmentation = Literal["none", "flip-crop-rotate"]
"""Augmentations by their name in a configuration."""

AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)
"""Names of the augmentations."""

PADDING, DEGREES = 4, 15.0
"""Largest shift of an image in pixels, and largest angle that it is turned by."""

_DRAWS = 4
_KEY = 0xA06  # tells these draws apart from others of the stream's seed


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """Task whose training images are changed at random in every epoch; those for tests stay as they are.

    Each image is mirrored with a probability of 0.5, then padded with 4 reflected pixels on each side and cut
    to its size at a random place, then turned by 0 to 15 degrees, what comes in being 0 (Dohare et al., 2024,
    incremental CIFAR-100). The draws of all examples of an epoch are made at once, on the CPU.

    A learner asks for the task of an epoch (`in_epoch`). Outside of epochs, as when training examples are
    used to measure something, the images are unchanged.

    A stacked task has R tasks, each with its own draws.
    """

    task: SelectedImages
    """Task whose images these are, or the stacked ones."""

    seeds: tuple[int, ...]
    """Seed of the draws: that of the stream; of stacked tasks, one for each."""

    draws: Tensor | None = None
    """Numbers from 0 to 1 for each training example of an epoch. None: the images are unchanged. Shape:
    (..., num_train, 4)."""

    @property
    def index(self) -> int:
        """Index in the stream, from 0."""
        return self.task.index

    @property
    def spec(self) -> TaskSpec:
        """Sizes, loss and active classes."""
        return self.task.spec

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return self.task.num_train

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return self.task.num_test

    @property
    def num_validation(self) -> int:
        """Number of examples for validation."""
        return self.task.num_validation

    def in_epoch(self, epoch: int) -> AugmentedImages:
        """Return the task with the training images of an epoch, from 0."""
        count, rows = self.num_train, self.task.train_rows
        drawn = [
            random_uniforms(_DRAWS * count, seed, _KEY, self.index, epoch).view(count, _DRAWS)
            for seed in self.seeds
        ]
        draws = torch.stack(drawn).view(*rows.shape, _DRAWS)
        return replace(self, draws=draws.to(rows.device, non_blocking=True))

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, as `Task.train_batch`: those of the epoch, if there is one."""
        images, labels = self.task.train_batch(indices)
        if self.draws is None:
            return images, labels
        wanted = indices.unsqueeze(-1).expand(*indices.shape, _DRAWS)
        draws = self.draws.gather(-2, wanted).view(-1, _DRAWS)
        changed = flipped_cropped_rotated(images.view(-1, *self.spec.input_shape), draws)
        return changed.view(images.shape), labels

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, as `Task.test_batches`."""
        return self.task.test_batches(batch_size)

    def validation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the examples for validation, as `SelectedImages.validation_batches`."""
        return self.task.validation_batches(batch_size)


def flipped_cropped_rotated(images: Tensor, draws: Tensor) -> Tensor:
    """Return images that are mirrored, shifted and turned as some numbers from 0 to 1 say.

    Args:
        images: Shape: (batch, channels, height, width).
        draws: Numbers that decide the mirroring, both coordinates of the shift, and the angle. Shape:
            (batch, 4).

    Returns:
        Images of the same shape.
    """
    mirrored = (draws[:, 0] < 0.5)[:, None, None, None]
    images = torch.where(mirrored, images.flip(-1), images)
    top, left = (draws[:, 1:3] * (2 * PADDING + 1)).to(torch.int64).unbind(1)
    images = shifted_crop(images, PADDING, top, left, "reflect")
    return rotated(images, DEGREES * draws[:, 3])


def stacked_augmented(
    tasks: Sequence[AugmentedImages], together: SelectedImages
) -> AugmentedImages:
    """Return R augmented tasks as one.

    Args:
        tasks: The tasks, each with one seed.
        together: Their own tasks, stacked.
    """
    return AugmentedImages(together, tuple(seed for task in tasks for seed in task.seeds))
