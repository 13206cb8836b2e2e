"""Stream of tasks made from one dataset, each with another permutation of the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.checks import require_integer
from plasticity.tasks.datasets.images import ImageDataset, all_the_same
from plasticity.tasks.streams.base import Task, TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import ImageStream, ImageStreamConfig


@dataclass(frozen=True, kw_only=True)
class PermutedImagesConfig(ImageStreamConfig):
    """Settings of a stream of permuted images.

    Task k shows all images with their pixels in an order that depends on the run's seed and k alone; task 0
    shows them as they are.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    def make(self, data: ImageDataset, seed: int) -> PermutedImages:
        """Return the stream of one run."""
        return PermutedImages(data, self.num_tasks, seed)


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Task of the stream: the images of a dataset, all with the same permutation of their pixels.

    Pixel `i` of a task's image, counted row by row, is pixel `permutation[i]` of the dataset's.
    The channels of a pixel stay together. Pixels are numbers from 0 to 1, the stored value divided by the
    dataset's `max_value`, and are not standardised any further.

    A stacked task has R permutations of one dataset, from which every batch is gathered.
    """

    index: int
    """Index in the stream, from 0."""

    permutation: Tensor
    """Permutation of the pixels, int64, on the dataset's device. Shape: (height * width,), or (R, height *
    width) of a stacked task."""

    dataset: ImageDataset
    """Unpermuted images, shared by all tasks of a stream."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes of an image and of the classes, all of which are active."""
        return TaskSpec(input_shape=self.dataset.input_shape, output_size=self.dataset.num_classes)

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return len(self.dataset.train_labels)

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return len(self.dataset.test_labels)

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, without waiting for the device.

        Args:
            indices: Indices of the examples, 0 to `num_train` - 1, int64, on the dataset's device.
                Shape: (batch,), or (R, batch) of a stacked task.

        Returns:
            The images, float32, in the dataset's range, shape (..., batch, channels, height, width), and the
            labels, int64, shape (..., batch); both new tensors.
        """
        flat = indices.reshape(-1)
        images = self.dataset.train_images.index_select(0, flat)
        labels = self.dataset.train_labels.index_select(0, flat)
        return self._permuted(images.view(*indices.shape, -1)), labels.view(indices.shape)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, in the dataset's order, the same for every stacked task.

        Args:
            batch_size: Examples in a batch, at least 1; the last batch may have fewer.

        Returns:
            An iterator over images and labels, shaped as those of `train_batch`.

        Raises:
            TypeError: if the batch size is not an integer.
            ValueError: if it is below 1.
        """
        size = require_integer("batch_size", batch_size, minimum=1)
        starts = range(0, self.num_test, size)
        return (self._test_batch(slice(start, start + size)) for start in starts)

    def _test_batch(self, part: slice) -> tuple[Tensor, Tensor]:
        stacked = self.permutation.shape[:-1]
        images = self.dataset.test_images[part].flatten(1)
        labels = self.dataset.test_labels[part]
        return self._permuted(images.expand(*stacked, -1, -1)), labels.expand(*stacked, -1).clone()

    def _permuted(self, pixels: Tensor) -> Tensor:
        """Convert stored pixels, (..., batch, channels * height * width), to images."""
        # Time for a batch of 64 images of 28 x 28, on one CPU thread: 41 us with the pixels stored
        # as uint8 and permuted after the conversion; 160 us permuted before it (uint8 columns are
        # gathered one by one); 57 us with pixels stored as float32, for four times the memory;
        # 100 us with one gather over a combined index. A permuted copy of the dataset would take
        # 20 us, but 146 ms to make for 60 000 images, which is what it saves in 7 epochs.
        images = self.dataset.scaled(pixels)
        if self.index != 0:
            stacked, size = self.permutation.shape[:-1], self.permutation.shape[-1]
            images = self._reordered(images.view(*stacked, -1, size))
        return images.view(*pixels.shape[:-1], *self.dataset.input_shape)

    def _reordered(self, images: Tensor) -> Tensor:
        if self.permutation.dim() == 1:
            return images.index_select(-1, self.permutation)  # faster than `gather`
        return images.gather(-1, self.permutation.unsqueeze(-2).expand_as(images))


class PermutedImages(ImageStream[ImageTask]):
    """Stream of permuted-image tasks, after the continual benchmark of syre (Sec. 6.6, Fig. 11).

    `stream[k]` is task `k`, created without visiting any other. Task 0 is the unpermuted dataset. The
    permutation of any other task is a pure function of the seed, the task's index and the number of
    pixels, the same on every machine and for every `num_tasks`; training and test images share it.
    Arguments and errors are those of `ImageStream`.
    """

    def make_task(self, index: int) -> ImageTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        height, width = self.dataset.image_shape
        pixels = height * width
        permutation = random_order(pixels, self.seed, index) if index else torch.arange(pixels)
        return ImageTask(index, permutation.to(self.dataset.train_images.device), self.dataset)

    def stack_tasks(self, tasks: Sequence[Task]) -> Task:
        """Return several tasks as a stacked one, with one gather for all if they share a dataset."""
        # A subclass may have batches of its own, of which one gather would know nothing.
        alike = [task for task in tasks if type(task) is ImageTask]
        if len(alike) < len(tasks) or not all_the_same([task.dataset for task in alike]):
            return super().stack_tasks(tasks)
        permutations = torch.stack([task.permutation for task in alike])
        return ImageTask(alike[0].index, permutations, alike[0].dataset)
