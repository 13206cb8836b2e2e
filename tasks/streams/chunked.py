"""Stream of a dataset that arrives in chunks: every task has some more examples, or others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.checks import require_bool, require_integer
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.draws import random_order
from plasticity.tasks.streams.images import (
    ImageStreamConfig,
    SelectedImages,
    SelectedImagesStream,
    task_of_rows,
)


@dataclass(frozen=True, kw_only=True)
class ChunkedConfig(ImageStreamConfig):
    """Settings of a dataset that arrives in chunks of equal size.

    The examples are in an order that is drawn from the run's seed; each task tests on the whole test set. A
    network that loses nothing generalizes in the end as well as one that begins with all examples.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or there are more tasks than chunks.
    """

    described: ClassVar[tuple[str, ...]] = ("examples",)

    chunks: int = 10
    """Number of chunks of the whole training set."""

    cumulative: bool = True
    """Whether a task has all chunks until then, or its own only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("chunks", self.chunks, minimum=1)
        require_bool("cumulative", self.cumulative)
        if self.num_tasks > self.chunks:
            raise ValueError(
                f"--tasks {self.num_tasks} is more than --chunks {self.chunks}: give at most {self.chunks}."
            )

    def make(self, data: ImageDataset, seed: int) -> Chunked:
        """Return the stream of one run.

        Raises:
            ValueError: if there are fewer training images than chunks.
        """
        return Chunked(data, self.num_tasks, seed, chunks=self.chunks, cumulative=self.cumulative)


class Chunked(SelectedImagesStream):
    """Stream of a dataset in chunks (Ash & Adams, 2020, without an end; FIRE, 2026, "continual").

    Args:
        dataset: The images.
        num_tasks: Length of the stream, from 1 to the number of chunks.
        seed: Seed of the order of the examples, 0 or more, of any number of bits.
        chunks: Number of chunks; examples that are left over by the division are in none.
        cumulative: Whether a task has all chunks until then, or its own only.

    Raises:
        TypeError: if the dataset is not an `ImageDataset`, or a number is not an integer.
        ValueError: if a number is out of range, or there are fewer training images than chunks.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        num_tasks: int,
        seed: int,
        *,
        chunks: int = 10,
        cumulative: bool = True,
    ) -> None:
        super().__init__(dataset, num_tasks, seed)
        count = len(dataset.train_labels)
        require_integer("chunks", chunks, minimum=num_tasks)
        if chunks > count:
            raise ValueError(
                f"--chunks {chunks} is larger than the {count} training images of {dataset.name}: give at"
                f" most {count}."
            )
        self._size, self._cumulative = count // chunks, cumulative
        self._order = random_order(count, seed).to(dataset.train_labels.device)

    def make_task(self, index: int) -> SelectedImages:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        first = 0 if self._cumulative else index * self._size
        return task_of_rows(self.dataset, index, self._order[first : (index + 1) * self._size])

    def describe(self, index: int) -> dict[str, Any]:
        """Return the number of training examples."""
        return {"examples": self._size * (index + 1 if self._cumulative else 1)}
