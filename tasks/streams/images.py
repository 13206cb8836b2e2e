"""Streams of images: their dataset, and tasks that select examples of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_name
from plasticity.tasks.datasets.images import PIXELS, ImageDataset, all_the_same, load_dataset
from plasticity.tasks.streams.base import (
    SupervisedStream,
    SupervisedStreamConfig,
    Task,
    Task_co,
    TaskSpec,
    stacked_spec,
)


@dataclass(frozen=True, kw_only=True)
class ImageStreamConfig(SupervisedStreamConfig):
    """Settings of a stream of images.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    fixed: ClassVar[tuple[str, ...]] = ("dataset",)

    dataset: str
    """Images of the tasks: mnist, fashion-mnist, kmnist, cifar10, cifar100, digits, or images (any folder of
    files like MNIST's)."""

    data_dir: str | None = None
    """Folder with the files of the data. None: $PLASTICITY_DATA/NAME, the cache, then a download."""

    pixels: Literal["unit", "symmetric", "standardized"] = "unit"
    """Range of the pixels: unit from 0 to 1, symmetric from -1 to 1, standardized with mean 0 and standard
    deviation 1 in each channel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("dataset", self.dataset)
        require_known("pixels", self.pixels, PIXELS)
        if self.data_dir is not None and not isinstance(self.data_dir, str):
            raise TypeError(
                f"data_dir must be the name of a folder or None, not {self.data_dir!r}."
            )

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that `load` imports late."""
        return ("sklearn.datasets",) if self.dataset == "digits" else ()

    def load(self, device: torch.device | str = "cpu") -> ImageDataset:
        """Return the images on a device, as `load_dataset` reads or downloads them.

        Raises:
            ValueError: if the dataset is unknown, or files are missing or not as expected.
            DownloadError: if no mirror delivers.
        """
        dataset = load_dataset(self.dataset, data_dir=self.data_dir)
        return replace(dataset, pixels=self.pixels).to(device)


class ImageStream(SupervisedStream[Task_co]):
    """Stream of tasks on one dataset of images.

    Args:
        dataset: The images, shared by all tasks, as uint8.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the tasks, 0 or more, of any number of bits.
        device: Device of the batches, to which the images are moved once. None: that of the images.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(dataset, ImageDataset):
            raise TypeError(
                f"dataset must be an ImageDataset, as returned by load_dataset: "
                f"{type(dataset).__name__}."
            )
        super().__init__(num_tasks, seed)
        self.dataset = dataset if device is None else dataset.to(device)


@dataclass(frozen=True, eq=False)
class SelectedImages:
    """Task of some examples of a dataset, which may have labels of its own.

    A stacked task selects from one dataset for R tasks: every tensor but the images has a leading axis of
    length R.
    """

    index: int
    """Index in the stream, from 0."""

    spec: TaskSpec
    """Sizes, loss and active classes."""

    dataset: ImageDataset
    """Images, shared by all tasks of a stream."""

    train_rows: Tensor
    """Positions of the training examples among the dataset's, int64. Shape: (..., num_train)."""

    train_labels: Tensor
    """Their labels, int64. Shape: (..., num_train)."""

    test_rows: Tensor
    """Positions of the test examples among the dataset's, int64. Shape: (..., num_test)."""

    test_labels: Tensor | None = None
    """Their labels, int64. None: the dataset's. Shape: (..., num_test)."""

    validation_rows: Tensor | None = None
    """Positions of examples for validation among the dataset's training images, int64. None: there are none.
    Shape: (..., num_validation)."""

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return self.train_rows.shape[-1]

    @property
    def num_test(self) -> int:
        """Number of test examples, which may be 0."""
        return self.test_rows.shape[-1]

    @property
    def num_validation(self) -> int:
        """Number of examples for validation, which may be 0."""
        return 0 if self.validation_rows is None else self.validation_rows.shape[-1]

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, without waiting for the device.

        Args:
            indices: Indices of the examples, 0 to `num_train` - 1, int64, on the dataset's device.
                Shape: (..., batch).

        Returns:
            The images, float32, in the dataset's range, shape (..., batch, channels, height, width), and the
            labels, int64, shape (..., batch); both new tensors.
        """
        rows = self.train_rows.gather(-1, indices)
        return self._images(self.dataset.train_images, rows), self.train_labels.gather(-1, indices)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, in the order of `test_rows`.

        Args:
            batch_size: Examples in a batch, at least 1; the last batch may have fewer.

        Returns:
            An iterator over images and labels, shaped as those of `train_batch`; empty if there are none.

        Raises:
            TypeError: if the batch size is not an integer.
            ValueError: if it is below 1.
        """
        images, labels = self.dataset.test_images, self.test_labels
        if labels is None:
            labels = self.dataset.test_labels[self.test_rows]
        return self._batches(images, self.test_rows, labels, batch_size)

    def validation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the examples for validation, with the dataset's labels; as `test_batches`."""
        rows = self.train_rows[..., :0] if self.validation_rows is None else self.validation_rows
        labels = self.dataset.train_labels[rows]
        return self._batches(self.dataset.train_images, rows, labels, batch_size)

    def _batches(
        self, stored: Tensor, rows: Tensor, labels: Tensor, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        size = require_integer("batch_size", batch_size, minimum=1)
        if rows.shape[-1] == 0:
            return iter(())
        parts = (torch.split(each, size, dim=-1) for each in (rows, labels))
        return (
            (self._images(stored, own), named.clone()) for own, named in zip(*parts, strict=True)
        )

    def _images(self, stored: Tensor, rows: Tensor) -> Tensor:
        images = self.dataset.scaled(stored.index_select(0, rows.flatten()))
        return images.view(*rows.shape, *self.dataset.input_shape)


def task_of_rows(dataset: ImageDataset, index: int, rows: Tensor) -> SelectedImages:
    """Return the task of some training examples with their own labels, and of all test examples.

    Args:
        dataset: The images.
        index: Index of the task.
        rows: Positions of the training examples, int64. Shape: (num_train,).
    """
    return SelectedImages(
        index,
        TaskSpec(input_shape=dataset.input_shape, output_size=dataset.num_classes),
        dataset,
        train_rows=rows,
        train_labels=dataset.train_labels[rows],
        test_rows=torch.arange(len(dataset.test_labels), device=rows.device),
    )


class SelectedImagesStream(ImageStream[SelectedImages]):
    """Stream of tasks that select examples of one dataset. A subclass implements `make_task`."""

    def stack_tasks(self, tasks: Sequence[Task]) -> Task:
        """Return several tasks as a stacked one, with one gather for all if they share a dataset."""
        return stacked_images(tasks) or super().stack_tasks(tasks)


def stacked_images(tasks: Sequence[Task]) -> SelectedImages | None:
    """Return several tasks as one that gathers for all of them at once.

    None: they are of other kinds, or select from several datasets.
    """
    # A subclass may have batches of its own, of which one gather would know nothing.
    alike = [task for task in tasks if type(task) is SelectedImages]
    if len(alike) < len(tasks) or not all_the_same([task.dataset for task in alike]):
        return None
    return SelectedImages(
        alike[0].index,
        stacked_spec([task.spec for task in alike]),
        alike[0].dataset,
        **{
            name: torch.stack([getattr(task, name) for task in alike])
            for name in _OF_EACH
            if getattr(alike[0], name) is not None
        },
    )


_OF_EACH = ("train_rows", "train_labels", "test_rows", "test_labels", "validation_rows")
"""Tensors of a task that those of a stack have each their own of."""


def fewest_of_a_class(labels: Tensor, num_classes: int) -> int:
    """Return the number of examples of the class that has fewest. Shape of the labels: (examples,)."""
    return int(torch.bincount(labels, minlength=num_classes).min())


def rows_by_class(labels: Tensor, num_classes: int, count: int, skipped: int = 0) -> Tensor:
    """Return the positions of the first examples of each class, after some that are skipped.

    Args:
        labels: Shape: (examples,).
        num_classes: Number of classes.
        count: Examples of each class.
        skipped: Examples of each class before these.

    Returns:
        Positions in ascending order. Shape: (num_classes, count).
    """
    return torch.stack(
        [
            (labels == each).nonzero().flatten()[skipped : skipped + count]
            for each in range(num_classes)
        ]
    )
