"""Stream of two tasks: a part of a dataset, then all of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from plasticity.checks import require_bool, require_number
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
    task_of_rows,
)


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig(ImageStreamConfig):
    """Settings of a warm start: a network learns a part of a dataset, and then all of it.

    Compared with a network that begins with all of it, it generalizes worse, though it has seen more. With
    `--reference-every 1`, the plasticity gap of task 1 is this difference.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = ("examples",)

    num_tasks: int = field(default=2, metadata={"option": "tasks"})
    """Number of tasks: the first has a part of the training set, the others all of it."""

    share: float = 0.1
    """Part of the training set that the first task has, above 0 and at most 1."""

    equal_updates: bool = True
    """Whether the first task makes as many passes more as its examples are fewer, so that all tasks have
    about as many steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if require_number("share", self.share, minimum=0.0) == 0 or self.share > 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}.")
        require_bool("equal_updates", self.equal_updates)

    def make(self, data: ImageDataset, seed: int) -> WarmStart:
        """Return the stream of one run."""
        return WarmStart(
            data, self.num_tasks, seed, share=self.share, equal_updates=self.equal_updates
        )


class WarmStart(SelectedImagesStream):
    """Stream of a warm start (Ash & Adams, 2020; with equal numbers of updates: FIRE, 2026).

    Args:
        dataset: The images.
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the examples of the first task, 0 or more, of any number of bits.
        share: Part of the training set that the first task has; at least one image.
        equal_updates: Whether the first task makes as many passes more as its examples are fewer.

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
        share: float = 0.1,
        equal_updates: bool = True,
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        count = len(dataset.train_labels)
        self._first = max(1, round(share * count))
        self._passes = max(1, round(1 / share)) if equal_updates else 1
        self._order = random_order(count, seed).to(dataset.train_labels.device)

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        if index:
            return task_of_rows(self.dataset, index, self._order)
        task = task_of_rows(self.dataset, 0, self._order[: self._first])
        return replace(task, spec=replace(task.spec, passes=self._passes))

    def describe(self, index: int) -> dict[str, Any]:
        """Return the number of training examples."""
        return {"examples": len(self._order) if index else self._first}
