"""Stream of tasks with random labels: a network memorises the same images anew, task after task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from plasticity.checks import require_integer, require_known
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.draws import random_integers, random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
)

Labels = Literal["independent", "permuted"]
"""Kinds of random labels by their name."""


@dataclass(frozen=True, kw_only=True)
class RandomLabelsConfig(ImageStreamConfig):
    """Settings of a stream of random labels.

    Every task has the same training images, drawn from the run's seed, and gives each a label of its own.
    There is nothing to test on: what is measured is how well a network memorises.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_examples: int = field(default=1200, metadata={"option": "examples"})
    """Number of images, drawn once from the training set."""

    labels: Labels = "independent"
    """Labels of a task. independent: uniform over the classes, each by itself. permuted: the true labels in
    another order, which keeps the number of each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_examples", self.num_examples, minimum=1)
        require_known("labels", self.labels, get_args(Labels))

    def make(self, data: ImageDataset, seed: int) -> RandomLabels:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has fewer training images.
        """
        return RandomLabels(
            data, self.num_tasks, seed, num_examples=self.num_examples, labels=self.labels
        )


class RandomLabels(SelectedImagesStream):
    """Stream of random labels (Lyle et al., 2023; 1200 images of MNIST: Kumar et al., 2023, Sec. 5.1).

    The labels of a task are a pure function of the seed and its index, drawn independently and uniformly, or
    permuted, as in the code of Kumar et al.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the images and labels, 0 or more, of any number of bits.
        num_examples: Number of images, drawn once from the training set.
        labels: "independent" or "permuted".

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, or larger than the training set.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        *,
        num_examples: int = 1200,
        labels: Labels = "independent",
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        count = len(dataset.train_labels)
        require_integer("num_examples", num_examples, minimum=1)
        if num_examples > count:
            raise ValueError(
                f"--examples {num_examples} is larger than the {count} training images of"
                f" {dataset.name}: give at most {count}."
            )
        self._labels = labels
        self._rows = random_order(count, seed)[:num_examples].to(dataset.train_labels.device)

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        classes, count = self.dataset.num_classes, len(self._rows)
        if self._labels == "permuted":
            order = random_order(count, self.seed, index).to(self._rows.device)
            labels = self.dataset.train_labels[self._rows[order]]
        else:
            labels = random_integers(count, classes, self.seed, index)
        spec = TaskSpec(input_shape=self.dataset.input_shape, output_size=classes)
        none = torch.empty(0, dtype=torch.int64, device=self._rows.device)
        return SelectedImages(
            index, spec, self.dataset, self._rows, labels.to(self._rows.device), none
        )
