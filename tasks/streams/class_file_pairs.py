"""Stream of pairs of classes whose images are in a file for each class: continual ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.tasks.datasets.class_files import (
    CLASS_PIXELS,
    ClassFiles,
    find_class_files,
    open_class_files,
)
from plasticity.tasks.streams.base import SupervisedStream, SupervisedStreamConfig, TaskSpec
from plasticity.tasks.streams.class_pairs import DESCRIBED, class_pair, described_pair


@dataclass(frozen=True, kw_only=True)
class ClassFilePairsConfig(SupervisedStreamConfig):
    """Settings of a stream of pairs of classes, drawn from the run's seed, whose images are in files.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = DESCRIBED

    data_dir: str | None = None
    """Folder with the files 0.npy, 1.npy, …, or with a folder `classes` that holds them. None:
    $PLASTICITY_DATA/imagenet32."""

    num_classes: int = 1000
    """Number of classes, each with its file."""

    train_per_class: int = 600
    """Training images of each class, the first ones of its file."""

    test_per_class: int = 100
    """Test images of each class, the last ones of its file."""

    pixels: Literal["stored", "unit", "symmetric"] = "stored"
    """Range of the pixels. stored: as the files have them, which is what the published code does. unit: from
    0 to 1. symmetric: from -1 to 1."""

    max_value: float = 255.0
    """Stored value of full brightness, above 0, by which unit and symmetric pixels are divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_classes", self.num_classes, minimum=2)
        require_integer("train_per_class", self.train_per_class, minimum=1)
        require_integer("test_per_class", self.test_per_class, minimum=1)
        require_known("pixels", self.pixels, CLASS_PIXELS)
        if require_number("max_value", self.max_value, minimum=0.0) == 0:
            raise ValueError("max_value must be above 0: pixels are divided by it.")
        if self.data_dir is not None and not isinstance(self.data_dir, str):
            raise TypeError(
                f"data_dir must be the name of a folder or None, not {self.data_dir!r}."
            )

    def load(self, device: torch.device | str = "cpu") -> ClassFiles:
        """Return the files, of which no image is read yet.

        Raises:
            ValueError: if files are missing or not as expected.
        """
        return open_class_files(
            find_class_files(self.data_dir),
            self.num_classes,
            train_per_class=self.train_per_class,
            test_per_class=self.test_per_class,
            pixels=self.pixels,
            max_value=self.max_value,
            device=device,
        )

    def make(self, data: ClassFiles, seed: int) -> ClassFilePairs:
        """Return the stream of one run."""
        return ClassFilePairs(data, self.num_tasks, seed)


@dataclass(frozen=True, eq=False)
class HeldImages:
    """Task that holds its images and labels."""

    index: int
    """Index in the stream, from 0."""

    train_images: Tensor
    """Training images, float32. Shape: (num_train, channels, height, width)."""

    train_labels: Tensor
    """Training labels, 0 or 1, int64. Shape: (num_train,)."""

    test_images: Tensor
    """Test images, likewise."""

    test_labels: Tensor
    """Test labels, likewise."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes of an image, and two classes."""
        channels, height, width = self.train_images.shape[1:]
        return TaskSpec(input_shape=(channels, height, width), output_size=2)

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return len(self.train_labels)

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return len(self.test_labels)

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, as `Task.train_batch`."""
        return self.train_images.index_select(0, indices), self.train_labels[indices]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, as `Task.test_batches`."""
        size = require_integer("batch_size", batch_size, minimum=1)
        parts = (torch.split(each.clone(), size) for each in (self.test_images, self.test_labels))
        return zip(*parts, strict=True)


class ClassFilePairs(SupervisedStream[HeldImages]):
    """Stream of pairs of classes in files: continual ImageNet (Dohare et al., 2024).

    Pairs are those of `ClassPairs`: each round of num_classes / 2 tasks pairs all classes anew, whereas the
    published order of 500 pairs repeats itself. A task reads the files of its two classes when it is made.
    Images of the two classes alternate.

    Args:
        files: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the pairs, 0 or more, of any number of bits.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range.
    """

    def __init__(self, files: ClassFiles, num_tasks: int, seed: int) -> None:
        super().__init__(num_tasks, seed)
        self.files = files

    def pair(self, index: int) -> tuple[int, int]:
        """Return the classes of task `index`, from 0."""
        return class_pair(self.files.num_classes, self.seed, index)

    def make_task(self, index: int) -> HeldImages:
        """Return task `index`, from 0 to `num_tasks` - 1.

        Raises:
            ValueError: if a file is not as expected.
        """
        splits = zip(*[self.files.images(label) for label in self.pair(index)], strict=True)
        held: list[Tensor] = []
        for classes in splits:
            images = torch.stack(classes, 1).flatten(0, 1)
            held += [images, torch.arange(len(images), device=images.device) % 2]
        return HeldImages(index, *held)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the two classes."""
        return described_pair(self.pair(index))
