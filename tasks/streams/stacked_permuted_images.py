"""Stacked tasks: one from each of R streams of permuted images, which share one dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from plasticity.tasks.streams.permuted_images import ImageTask, PermutedImages


class StackedImageTask:
    """Tasks with the same index in R streams over one dataset, which returns stacked batches.

    The dataset is not copied: every batch is gathered from it, and its pixels are bitwise equal to those
    of the single tasks.

    Args:
        tasks: One task for each stacked run, with equal `index` and one dataset.

    Raises:
        ValueError: if there are no tasks, or their indices or datasets differ.
    """

    def __init__(self, tasks: Sequence[ImageTask]) -> None:
        if not tasks:
            raise ValueError("A stacked task needs at least one task: an empty list was given.")
        first = tasks[0]
        for position, task in enumerate(tasks):
            if task.index != first.index:
                raise ValueError(
                    f"tasks[{position}] is task {task.index} of its stream, tasks[0] task {first.index}:"
                    " stack tasks with the same index."
                )
            if not _one_dataset(task, first):
                raise ValueError(
                    f"tasks[{position}] has a different dataset from tasks[0]: make all streams from one"
                    " ImageDataset that is already on their device."
                )
        self.tasks = tuple(tasks)
        self._dataset = first.dataset
        self._permutations = torch.stack([task.permutation for task in tasks]).unsqueeze(1)

    @property
    def index(self) -> int:
        """Index of the tasks in their streams, from 0."""
        return self.tasks[0].index

    @property
    def num_stacked(self) -> int:
        """Number of stacked tasks, R."""
        return len(self.tasks)

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return self.tasks[0].num_train

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return self.tasks[0].num_test

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples of every task, without waiting for the device.

        Args:
            indices: Indices of the examples, int64, on the dataset's device. Shape: (R, batch).

        Returns:
            The images, float32, from 0 to 1, shape (R, batch, 1, height, width), and the labels, int64,
            shape (R, batch); both new tensors.
        """
        flat = indices.reshape(-1)
        images = self._dataset.train_images.index_select(0, flat)
        labels = self._dataset.train_labels.index_select(0, flat)
        return self._permuted(images.view(*indices.shape, -1)), labels.view_as(indices)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, in the dataset's order, the same for every task.

        Args:
            batch_size: Examples of each task in a batch, at least 1; the last batch may have fewer.

        Returns:
            An iterator over images and labels, shaped as those of `train_batch`.

        Raises:
            ValueError: if the batch size is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: {batch_size}.")
        starts = range(0, self.num_test, batch_size)
        return (self._test_batch(slice(start, start + batch_size)) for start in starts)

    def _test_batch(self, part: slice) -> tuple[Tensor, Tensor]:
        images = self._dataset.test_images[part].flatten(1)
        labels = self._dataset.test_labels[part]
        shape = (self.num_stacked, *labels.shape)
        return self._permuted(images.expand(*shape, -1)), labels.expand(shape).clone()

    def _permuted(self, pixels: Tensor) -> Tensor:
        """Convert stored pixels, (R, batch, height * width), to images, as `ImageTask` does."""
        images = pixels.to(torch.float32).mul_(1 / self._dataset.max_value)
        if self.index != 0:
            images = images.gather(2, self._permutations.expand_as(images))
        return images.view(*pixels.shape[:2], 1, *self._dataset.image_shape)


class StackedPermutedImages:
    """R stacked streams: `stacked[k]` holds task `k` of each.

    Args:
        streams: Streams of one dataset and of equal length; their seeds may be equal.

    Raises:
        ValueError: if there are no streams, or their lengths or datasets differ.
    """

    def __init__(self, streams: Sequence[PermutedImages]) -> None:
        if not streams:
            raise ValueError("Stacked streams need at least one stream: an empty list was given.")
        for position, stream in enumerate(streams):
            if len(stream) != len(streams[0]):
                raise ValueError(
                    f"streams[{position}] has {len(stream)} tasks, streams[0] {len(streams[0])}: stack"
                    " streams of equal length."
                )
        self.streams = tuple(streams)
        # Refuses different datasets now, before training.
        StackedImageTask([stream[0] for stream in streams])

    def __len__(self) -> int:
        return len(self.streams[0])

    def __getitem__(self, index: int) -> StackedImageTask:
        """Return the tasks with this index, stacked.

        Raises:
            TypeError: if the index is not an integer.
            IndexError: if there are no such tasks.
        """
        return StackedImageTask([stream[index] for stream in self.streams])

    def __iter__(self) -> Iterator[StackedImageTask]:
        return (self[index] for index in range(len(self)))


def _one_dataset(task: ImageTask, other: ImageTask) -> bool:
    return all(
        getattr(task.dataset, name).data_ptr() == getattr(other.dataset, name).data_ptr()
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    )
