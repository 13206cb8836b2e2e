"""Stream of pairs of classes, which a network learns to tell apart, one pair after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.checks import require_integer
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
    fewest_of_a_class,
    rows_by_class,
)

DESCRIBED = ("first_class", "second_class")
"""Keys of a row under which a stream of pairs tells the classes of a task."""


@dataclass(frozen=True, kw_only=True)
class ClassPairsConfig(ImageStreamConfig):
    """Settings of a stream of pairs of classes, drawn from the run's seed.

    The network has two outputs, whichever the two classes are.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = DESCRIBED

    train_per_class: int | None = None
    """Training images of each class, the first ones. None: as many as the smallest class has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_per_class is not None:
            require_integer("train_per_class", self.train_per_class, minimum=1)

    def make(self, data: ImageDataset, seed: int) -> ClassPairs:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has fewer than two classes, or a class has too few images.
        """
        return ClassPairs(data, self.num_tasks, seed, train_per_class=self.train_per_class)


class ClassPairs(SelectedImagesStream):
    """Stream of pairs of classes: the continual ImageNet of Dohare et al. (2024), on other images.

    Tasks come in rounds. A round pairs all classes at random, so that each is in one pair; with an odd number
    one is left out. Every round is drawn anew, whereas the published order of 500 pairs repeats itself. The
    first class of a pair has the label 0, the second 1.

    All classes have equal numbers of examples, as in `ClassIncremental`.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the pairs, 0 or more, of any number of bits.
        train_per_class: Training images of each class, the first ones. None: as many as the smallest class
            has. Of the test images, each class has always as many as the smallest.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, there are fewer than two classes, or a class has too few
            images.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        *,
        train_per_class: int | None = None,
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        count = dataset.num_classes
        fewest = fewest_of_a_class(dataset.train_labels, count)
        if train_per_class is not None and train_per_class > fewest:
            raise ValueError(
                f"--train-per-class {train_per_class} is larger than the {fewest} training images of the"
                f" smallest class of {dataset.name}: give at most {fewest}."
            )
        self.pair(0)  # raises an error where there are too few classes
        tests = fewest_of_a_class(dataset.test_labels, count)
        self._train = rows_by_class(dataset.train_labels, count, train_per_class or fewest)
        self._test = rows_by_class(dataset.test_labels, count, tests)

    def pair(self, index: int) -> tuple[int, int]:
        """Return the classes of task `index`, from 0."""
        return class_pair(self.dataset.num_classes, self.seed, index)

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        pair = self.pair(index)
        train, test = (
            each[list(pair)].flatten().sort().values for each in (self._train, self._test)
        )
        second = pair[1]
        return SelectedImages(
            index,
            TaskSpec(input_shape=self.dataset.input_shape, output_size=2),
            self.dataset,
            train_rows=train,
            train_labels=(self.dataset.train_labels[train] == second).long(),
            test_rows=test,
            test_labels=(self.dataset.test_labels[test] == second).long(),
        )

    def describe(self, index: int) -> dict[str, Any]:
        """Return the two classes."""
        return described_pair(self.pair(index))


def class_pair(num_classes: int, seed: int, index: int) -> tuple[int, int]:
    """Return the pair of classes of a task, which is drawn without those of any other.

    Args:
        num_classes: Number of classes, at least 2.
        seed: Seed, 0 or more, of any number of bits.
        index: Index of the task, from 0.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"Pairs need at least two classes, not {num_classes}: give other images.")
    number, place = divmod(index, num_classes // 2)
    first, second = random_order(num_classes, seed, number)[2 * place : 2 * place + 2].tolist()
    return first, second


def described_pair(pair: tuple[int, int]) -> dict[str, Any]:
    """Return what a row tells of a pair."""
    return dict(zip(DESCRIBED, pair, strict=True))
