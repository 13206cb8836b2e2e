"""Stream of tasks with more and more classes, which arrive a few at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticity.checks import require_bool, require_integer
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
)


@dataclass(frozen=True, kw_only=True)
class ClassIncrementalConfig(ImageStreamConfig):
    """Settings of a stream of classes that arrive a few at a time, in an order drawn from the run's seed.

    A task tests on all classes seen so far; the logits of others are ignored, in training too.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = ("num_classes",)

    classes_per_task: int = 2
    """Number of classes that arrive with each task."""

    cumulative: bool = True
    """Whether a task trains on all classes seen so far, or on its new ones only."""

    train_per_class: int | None = None
    """Training images of each class, the first ones. None: as many as the smallest class has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("classes_per_task", self.classes_per_task, minimum=1)
        require_bool("cumulative", self.cumulative)
        if self.train_per_class is not None:
            require_integer("train_per_class", self.train_per_class, minimum=1)

    def make(self, data: ImageDataset, seed: int) -> ClassIncremental:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has too few classes or images.
        """
        return ClassIncremental(
            data,
            self.num_tasks,
            seed,
            classes_per_task=self.classes_per_task,
            cumulative=self.cumulative,
            train_per_class=self.train_per_class,
        )


class ClassIncremental(SelectedImagesStream):
    """Stream of classes that arrive a few at a time (Dohare et al., 2024: five of CIFAR-100 at a time).

    The order of the classes is a pure function of the seed. All classes have equal numbers of examples, so
    that an accuracy weighs them equally, and runs with other orders can be stacked.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the order, 0 or more, of any number of bits.
        classes_per_task: Number of classes that arrive with each task.
        cumulative: Whether a task trains on all classes seen so far, or on its new ones only.
        train_per_class: Training images of each class, the first ones. None: as many as the smallest class
            has. Of the test images, each class has always as many as the smallest.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, there are too few classes for all tasks, or a class has too
            few images.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        *,
        classes_per_task: int = 2,
        cumulative: bool = True,
        train_per_class: int | None = None,
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        self.classes_per_task = require_integer("classes_per_task", classes_per_task, minimum=1)
        self.cumulative = cumulative
        count = dataset.num_classes
        if classes_per_task > count:
            raise ValueError(
                f"--classes-per-task {classes_per_task} is larger than the {count} classes of {dataset.name}:"
                f" give at most {count}."
            )
        if num_tasks * classes_per_task > count:
            raise ValueError(
                f"--tasks {num_tasks} of --classes-per-task {classes_per_task} need"
                f" {num_tasks * classes_per_task} classes, and {dataset.name} has {count}: give at most"
                f" {count // classes_per_task} tasks, or fewer classes per task."
            )
        fewest = _fewest(dataset.train_labels, count)
        if train_per_class is not None and train_per_class > fewest:
            raise ValueError(
                f"--train-per-class {train_per_class} is larger than the {fewest} training images of the"
                f" smallest class of {dataset.name}: give at most {fewest}."
            )
        self._order = random_order(count, seed).tolist()
        self._train = _rows_by_class(dataset.train_labels, count, train_per_class or fewest)
        self._test = _rows_by_class(dataset.test_labels, count, _fewest(dataset.test_labels, count))

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        seen = self._order[: (index + 1) * self.classes_per_task]
        learned = seen if self.cumulative else seen[-self.classes_per_task :]
        rows = self._train[learned].flatten().sort().values
        return SelectedImages(
            index,
            TaskSpec(
                input_shape=self.dataset.input_shape,
                output_size=self.dataset.num_classes,
                active=tuple(sorted(seen)),
            ),
            self.dataset,
            train_rows=rows,
            train_labels=self.dataset.train_labels[rows],
            test_rows=self._test[seen].flatten().sort().values,
        )

    def describe(self, index: int) -> dict[str, Any]:
        """Return the number of classes seen so far."""
        return {"num_classes": (index + 1) * self.classes_per_task}


def _fewest(labels: Tensor, num_classes: int) -> int:
    return int(torch.bincount(labels, minlength=num_classes).min())


def _rows_by_class(labels: Tensor, num_classes: int, count: int) -> Tensor:
    """Return the positions of the first examples of each class. Shape: (num_classes, count)."""
    return torch.stack(
        [(labels == each).nonzero().flatten()[:count] for each in range(num_classes)]
    )
