"""Stream of tasks made from one dataset, each with another permutation of the pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer
from plasticity.tasks.datasets.images import ImageDataset, all_the_same
from plasticity.tasks.streams.base import Task, TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import ImageStream, ImageStreamConfig

_ROWS = 1  # key of the draws of a task's training images, beside that of its permutation


@dataclass(frozen=True, kw_only=True)
class PermutedImagesConfig(ImageStreamConfig):
    """Settings of a stream of permuted images.

    Task k shows images with their pixels in an order that depends on the run's seed and k alone; task 0 shows
    them as they are, unless `first_permuted`.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_examples: int | None = field(default=None, metadata={"option": "examples"})
    """Training images of a task, drawn anew for each. None: all."""

    test_examples: int | None = None
    """Test images of a task, the first ones; 0 for none. None: all."""

    first_permuted: bool = False
    """Whether the first task is permuted, too."""

    composed: bool = False
    """Whether each permutation acts on the images of the task before, instead of those of the dataset; one is
    as random as the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("num_examples", 1), ("test_examples", 0)):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), minimum=least)
        for name in ("first_permuted", "composed"):
            require_bool(name, getattr(self, name))

    def make(self, data: ImageDataset, seed: int) -> PermutedImages:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has fewer images.
        """
        return PermutedImages(
            data,
            self.num_tasks,
            seed,
            num_examples=self.num_examples,
            test_examples=self.test_examples,
            first_permuted=self.first_permuted,
            composed=self.composed,
        )


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Task of the stream: the images of a dataset, all with the same permutation of their pixels.

    Pixel `i` of a task's image, counted row by row, is pixel `permutation[i]` of the dataset's.
    The channels of a pixel stay together.

    A stacked task has R permutations of one dataset, from which every batch is gathered.

    Examples:
        >>> task = PermutedImages(load_dataset("digits"), num_tasks=2, seed=0)[1]
        >>> task.is_permuted, task.num_train
        (True, 1442)
    """

    index: int
    """Index in the stream, from 0."""

    permutation: Tensor
    """Permutation of the pixels, int64, on the dataset's device. Shape: (height * width,), or (R, height *
    width) of a stacked task."""

    dataset: ImageDataset
    """Unpermuted images, shared by all tasks of a stream."""

    is_permuted: bool = True
    """Whether the permutation moves anything; False for that of all pixels in their order."""

    train_rows: Tensor | None = None
    """Positions of the training examples among the dataset's, int64. Shape: (num_train,), or (R, num_train)
    of a stacked task. None: all of them."""

    test_examples: int | None = None
    """Number of test examples, the first ones. None: all."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes of an image and of the classes, all of which are active."""
        return TaskSpec(input_shape=self.dataset.input_shape, output_size=self.dataset.num_classes)

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        every = len(self.dataset.train_labels)
        return every if self.train_rows is None else self.train_rows.shape[-1]

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        every = len(self.dataset.test_labels)
        return every if self.test_examples is None else self.test_examples

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, without waiting for the device.

        Args:
            indices: Indices of the examples, 0 to `num_train` - 1, int64, on the dataset's device.
                Shape: (batch,), or (R, batch) of a stacked task.

        Returns:
            The images, float32, in the dataset's range, shape (..., batch, channels, height, width), and the
            labels, int64, shape (..., batch); both new tensors.
        """
        rows = indices if self.train_rows is None else self.train_rows.gather(-1, indices)
        flat = rows.reshape(-1)
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
        stops = (min(start + size, self.num_test) for start in starts)
        return (
            self._test_batch(slice(start, stop)) for start, stop in zip(starts, stops, strict=True)
        )

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
        if self.is_permuted:
            stacked, size = self.permutation.shape[:-1], self.permutation.shape[-1]
            images = self._reordered(images.view(*stacked, -1, size))
        return images.view(*pixels.shape[:-1], *self.dataset.input_shape)

    def _reordered(self, images: Tensor) -> Tensor:
        if self.permutation.dim() == 1:
            return images.index_select(-1, self.permutation)  # faster than `gather`
        return images.gather(-1, self.permutation.unsqueeze(-2).expand_as(images))


class PermutedImages(ImageStream[ImageTask]):
    """Stream of permuted-image tasks, after the continual benchmark of syre (Sec. 6.6, Fig. 11).

    `stream[k]` is task `k`, created without visiting any other. Task 0 is the unpermuted dataset, unless
    `first_permuted`. The permutation of any other task, and its training images where they are not all, are
    pure functions of the seed, the task's index and the sizes of the dataset, the same on every machine and
    for every `num_tasks`; training and test images share the permutation.

    Args:
        dataset: The images, shared by all tasks, as uint8.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the tasks, 0 or more, of any number of bits.
        device: Device of the batches, to which the images are moved once. None: that of the images.
        num_examples: Training images of a task, drawn anew for each. None: all.
        test_examples: Test images of a task, the first ones. None: all.
        first_permuted: Whether the first task is permuted, too.
        composed: Whether each permutation acts on the images of the task before.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, or larger than the dataset.

    Examples:
        >>> stream = PermutedImages(load_dataset("digits"), num_tasks=5, seed=0)
        >>> stream[3].spec.input_shape, stream[3].spec.output_size
        ((1, 8, 8), 10)
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        device: torch.device | str | None = None,
        *,
        num_examples: int | None = None,
        test_examples: int | None = None,
        first_permuted: bool = False,
        composed: bool = False,
    ) -> None:
        super().__init__(dataset, num_tasks, seed, device)
        for option, wanted, labels in (
            ("--examples", num_examples, dataset.train_labels),
            ("--test-examples", test_examples, dataset.test_labels),
        ):
            if wanted is not None and wanted > len(labels):
                raise ValueError(
                    f"{option} {wanted} is larger than the {len(labels)} images of {dataset.name}: give at"
                    f" most {len(labels)}, or leave it out for all."
                )
        self._num_examples, self._test_examples = num_examples, test_examples
        self._first_permuted, self._composed = first_permuted, composed

    def permutation(self, index: int) -> Tensor:
        """Return the permutation of a task, int64, on the CPU. Shape: (height * width,)."""
        height, width = self.dataset.image_shape
        first = 0 if self._first_permuted else 1
        if self._composed:
            return _composed(height * width, self.seed, first, index)
        if index < first:
            return torch.arange(height * width)
        return random_order(height * width, self.seed, index)

    def make_task(self, index: int) -> ImageTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        device = self.dataset.train_images.device
        rows = None
        if self._num_examples is not None:
            every = random_order(len(self.dataset.train_labels), self.seed, index, _ROWS)
            rows = every[: self._num_examples].to(device)
        return ImageTask(
            index,
            self.permutation(index).to(device),
            self.dataset,
            is_permuted=index > 0 or self._first_permuted,
            train_rows=rows,
            test_examples=self._test_examples,
        )

    def stack_tasks(self, tasks: Sequence[Task]) -> Task:
        """Return several tasks as a stacked one, with one gather for all if they share a dataset."""
        # A subclass may have batches of its own, of which one gather would know nothing.
        alike = [task for task in tasks if type(task) is ImageTask]
        if len(alike) < len(tasks) or not all_the_same([task.dataset for task in alike]):
            return super().stack_tasks(tasks)
        rows = [task.train_rows for task in alike if task.train_rows is not None]
        if 0 < len(rows) < len(alike):  # some draw all images, and some have all as they are
            return super().stack_tasks(tasks)
        return replace(
            alike[0],
            permutation=torch.stack([task.permutation for task in alike]),
            is_permuted=any(task.is_permuted for task in alike),
            train_rows=torch.stack(rows) if rows else None,
        )


def _composed(pixels: int, seed: int, first: int, index: int) -> Tensor:
    """Return the permutation that those of tasks `first` to `index` make, one after another."""
    # All are drawn anew for every task, which keeps no state: 78 ms for the 800th, of 784 pixels, on one
    # CPU thread.
    found = torch.arange(pixels)
    for task in range(first, index + 1):
        found = found[random_order(pixels, seed, task)]
    return found
