"""Stream of tasks whose classes are renamed: the same kinds of images, with the labels permuted anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from plasticity.checks import require_integer
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import TaskSpec
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
)

_CLASSES, _ROWS = range(2)  # keys of the draws


@dataclass(frozen=True, kw_only=True)
class LabelPermutedConfig(ImageStreamConfig):
    """Settings of a stream of permuted labels.

    Task k shows images, drawn anew, whose classes are renamed by a permutation that depends on the run's seed
    and k alone; task 0 has the true names. What a network knows of images stays useful; what it makes of them
    does not. There is nothing to test on: what is measured is the accuracy before each update.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_examples: int = field(default=2500, metadata={"option": "examples"})
    """Training images of a task, drawn anew for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_examples", self.num_examples, minimum=1)

    def make(self, data: ImageDataset, seed: int) -> LabelPermuted:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has fewer training images.
        """
        return LabelPermuted(data, self.num_tasks, seed, num_examples=self.num_examples)


class LabelPermuted(SelectedImagesStream):
    """Stream of permuted labels (Elsayed & Mahmood, UPGD, 2024, label-permuted EMNIST and mini-ImageNet).

    The permutation of the classes and the images of a task are pure functions of the seed and its index. In
    the published code each permutation acts on the labels of the task before, which is as random.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the images and permutations, 0 or more, of any number of bits.
        num_examples: Training images of a task.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, or larger than the training set.
    """

    def __init__(
        self, dataset: ImageDataset, num_tasks: int, seed: int, *, num_examples: int = 2500
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        count = len(dataset.train_labels)
        require_integer("num_examples", num_examples, minimum=1)
        if num_examples > count:
            raise ValueError(
                f"--examples {num_examples} is larger than the {count} training images of {dataset.name}:"
                f" give at most {count}."
            )
        self._num_examples = num_examples

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        device = self.dataset.train_labels.device
        classes, count = self.dataset.num_classes, len(self.dataset.train_labels)
        order = random_order(count, self.seed, index, _ROWS)
        rows = order[: self._num_examples].to(device)
        names = torch.arange(classes)
        if index:
            names = random_order(classes, self.seed, index, _CLASSES)
        labels = names.to(device)[self.dataset.train_labels[rows]]
        spec = TaskSpec(input_shape=self.dataset.input_shape, output_size=classes)
        none = torch.empty(0, dtype=torch.int64, device=device)
        return SelectedImages(index, spec, self.dataset, rows, labels, none)
