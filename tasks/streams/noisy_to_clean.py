"""Stream of labels that are noisy at first, and clean in the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from plasticity.checks import require_integer, require_number
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.draws import random_integers
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
    task_of_rows,
)

_IS_NOISY, _LABELS = range(2)  # keys of the draws
_RESOLUTION = 2**40  # values of the integers that decide which labels are noisy


@dataclass(frozen=True, kw_only=True)
class NoisyToCleanConfig(ImageStreamConfig):
    """Settings of labels whose noise declines from phase to phase, to none.

    Every task has all training images. In phase k, each label is drawn anew, uniformly over the classes, with
    a probability that falls linearly from `noise` to 0; the test labels are clean.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = ("noise",)

    noise: float = 0.8
    """Share of the labels that are drawn anew in the first task, 0 to 1."""

    phases: int = 5
    """Tasks from the first, noisiest one to the first clean one, both counted, at least 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if require_number("noise", self.noise, minimum=0.0) > 1:
            raise ValueError(f"noise must be at most 1, not {self.noise}.")
        require_integer("phases", self.phases, minimum=2)

    def make(self, data: ImageDataset, seed: int) -> NoisyToClean:
        """Return the stream of one run."""
        return NoisyToClean(data, self.num_tasks, seed, noise=self.noise, phases=self.phases)


class NoisyToClean(SelectedImagesStream):
    """Stream of labels whose noise declines, by a schedule of ours.

    The labels of a task are a pure function of the seed and its index.

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1; tasks from `phases` - 1 on are clean.
        seed: Seed of the noise, 0 or more, of any number of bits.
        noise: Share of the labels that are drawn anew in the first task.
        phases: Tasks from the noisiest one to the first clean one, both counted.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        *,
        noise: float = 0.8,
        phases: int = 5,
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        self._noise, self._phases = noise, phases
        self._rows = torch.arange(len(dataset.train_labels), device=dataset.train_labels.device)

    def noise(self, index: int) -> float:
        """Return the share of the labels of a task that are drawn anew."""
        return self._noise * max(0.0, 1 - index / (self._phases - 1))

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        clean = task_of_rows(self.dataset, index, self._rows)
        count, classes = len(self._rows), self.dataset.num_classes
        drawn = random_integers(count, _RESOLUTION, self.seed, index, _IS_NOISY)
        is_noisy = drawn < round(self.noise(index) * _RESOLUTION)
        labels = random_integers(count, classes, self.seed, index, _LABELS)
        device = self._rows.device
        noisy = torch.where(is_noisy.to(device), labels.to(device), clean.train_labels)
        return replace(clean, train_labels=noisy)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the share of the labels that are drawn anew."""
        return {"noise": self.noise(index)}
