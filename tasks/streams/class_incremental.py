"""Stream of tasks with more and more classes, which arrive a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.checks import require_bool, require_integer, require_known
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.augmented import (
    AUGMENTATIONS,
    Augmentation,
    AugmentedImages,
    stacked_augmented,
)
from plasticity.tasks.streams.base import Task, TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStream,
    ImageStreamConfig,
    SelectedImages,
    fewest_of_a_class,
    rows_by_class,
    stacked_images,
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
    """Training images of each class, the first ones after those for validation. None: as many as the smallest
    class has."""

    validation_per_class: int = 0
    """Training images of each class, the first ones, that are set apart: a learner may choose by them
    (`--keep-best`)."""

    augmentation: Augmentation = "none"
    """Random change of each training image, anew in every epoch. flip-crop-rotate: mirrored or not, shifted
    by up to 4 pixels, and turned by up to 15 degrees (Dohare et al., 2024)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("classes_per_task", self.classes_per_task, minimum=1)
        require_bool("cumulative", self.cumulative)
        require_integer("validation_per_class", self.validation_per_class, minimum=0)
        require_known("augmentation", self.augmentation, AUGMENTATIONS)
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
            validation_per_class=self.validation_per_class,
            augmentation=self.augmentation,
        )


class ClassIncremental(ImageStream[SelectedImages | AugmentedImages]):
    """Stream of classes that arrive a few at a time (Dohare et al., 2024: five of CIFAR-100 at a time).

    The order of the classes is a pure function of the seed. All classes have equal numbers of examples, so
    that an accuracy weighs them equally, and runs with other orders can be stacked.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the order, 0 or more, of any number of bits.
        classes_per_task: Number of classes that arrive with each task.
        cumulative: Whether a task trains on all classes seen so far, or on its new ones only.
        train_per_class: Training images of each class, the first ones after those for validation. None: as
            many as the smallest class has. Of the test images, each class has always as many as the smallest.
        validation_per_class: Training images of each class, the first ones, that are set apart.
        augmentation: Random change of each training image, anew in every epoch.

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
        validation_per_class: int = 0,
        augmentation: Augmentation = "none",
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        self._augmentation = augmentation
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
        fewest = fewest_of_a_class(dataset.train_labels, count)
        wanted = (train_per_class or 1) + validation_per_class
        if wanted > fewest:
            raise ValueError(
                f"--train-per-class {train_per_class or 'of at least 1'} and --validation-per-class"
                f" {validation_per_class} need {wanted} training images of each class, and the smallest of"
                f" {dataset.name} has {fewest}: give at most {fewest} in all."
            )
        labels, left = dataset.train_labels, fewest - validation_per_class
        self._order = random_order(count, seed).tolist()
        self._train = rows_by_class(labels, count, train_per_class or left, validation_per_class)
        self._validation = rows_by_class(labels, count, validation_per_class)
        tests = fewest_of_a_class(dataset.test_labels, count)
        self._test = rows_by_class(dataset.test_labels, count, tests)

    def make_task(self, index: int) -> SelectedImages | AugmentedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        seen = self._order[: (index + 1) * self.classes_per_task]
        learned = seen if self.cumulative else seen[-self.classes_per_task :]
        rows = self._train[learned].flatten().sort().values
        task = SelectedImages(
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
            validation_rows=self._validation[seen].flatten().sort().values,
        )
        return task if self._augmentation == "none" else AugmentedImages(task, (self.seed,))

    def stack_tasks(self, tasks: Sequence[Task]) -> Task:
        """Return several tasks as a stacked one, with one gather for all if they share a dataset."""
        augmented = [task for task in tasks if isinstance(task, AugmentedImages)]
        own = stacked_images([task.task for task in augmented] if augmented else tasks)
        if own is None or len(augmented) not in (0, len(tasks)):
            return super().stack_tasks(tasks)
        return stacked_augmented(augmented, own) if augmented else own

    def describe(self, index: int) -> dict[str, Any]:
        """Return the number of classes seen so far."""
        return {"num_classes": (index + 1) * self.classes_per_task}
