"""Stream in which each task fades into the next: neighbouring tasks mixed, in segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.tasks.datasets.images import ImageDataset
from plasticity.tasks.streams.base import SupervisedStream, Task, TaskSpec
from plasticity.tasks.streams.draws import random_integers
from plasticity.tasks.streams.images import ImageStreamConfig
from plasticity.tasks.streams.label_permuted import LabelPermuted
from plasticity.tasks.streams.permuted_images import PermutedImages
from plasticity.tasks.streams.random_labels import RandomLabels

Base = Literal["permuted-images", "random-labels", "label-permuted"]
"""Streams whose tasks are mixed, by their name."""

_RESOLUTION = 2**40  # values of the integers that decide which examples are of the task before


@dataclass(frozen=True, kw_only=True)
class GradualConfig(ImageStreamConfig):
    """Settings of a stream whose tasks change gradually.

    Every task of another stream is learned in segments of equal training. In its first segments, a falling
    share of the examples are still those of the task before. With a transition of 0, the change is abrupt,
    and the training as long.

    A segment is a task of this stream: it has a row, and mitigations that act between tasks act before each.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    described: ClassVar[tuple[str, ...]] = ("base_task", "share_before")

    base: Base = "permuted-images"
    """Stream whose tasks are mixed: permuted-images, random-labels or label-permuted."""

    num_examples: int = field(default=1200, metadata={"option": "examples"})
    """Training images of a task."""

    segments: int = 10
    """Segments of each task of that stream."""

    transition: float = 0.5
    """Share of these segments in which the task before is mixed in, 0 to 1. 0: the change is abrupt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("base", self.base, get_args(Base))
        for name in ("num_examples", "segments"):
            require_integer(name, getattr(self, name), minimum=1)
        if require_number("transition", self.transition, minimum=0.0) > 1:
            raise ValueError(f"transition must be at most 1, not {self.transition}.")

    def make(self, data: ImageDataset, seed: int) -> Gradual:
        """Return the stream of one run.

        Raises:
            ValueError: if the dataset has fewer training images.
        """
        bases = {
            "permuted-images": PermutedImages,
            "random-labels": RandomLabels,
            "label-permuted": LabelPermuted,
        }
        number = -(-self.num_tasks // self.segments)
        base = bases[self.base](data, number, seed, num_examples=self.num_examples)
        return Gradual(
            base,
            self.num_tasks,
            segments=self.segments,
            transition=self.transition,
            device=data.train_labels.device,
        )


@dataclass(frozen=True, eq=False)
class MixedTask:
    """Task of which some training examples are those of another."""

    index: int
    """Index in the stream, from 0."""

    before: Task
    """Task whose examples are mixed in."""

    current: Task
    """Task that it is otherwise, with the test examples."""

    is_before: Tensor
    """Positions of the examples that are those of `before`, bool. Shape: (num_train,)."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes, loss and active classes, those of both."""
        return self.current.spec

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return self.current.num_train

    @property
    def num_test(self) -> int:
        """Number of test examples."""
        return self.current.num_test

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, as `Task.train_batch`."""
        inputs, labels = self.current.train_batch(indices)
        old_inputs, old_labels = self.before.train_batch(indices)
        is_before = self.is_before[indices]
        mask = is_before.view(-1, *[1] * (inputs.dim() - 1))
        return torch.where(mask, old_inputs, inputs), torch.where(is_before, old_labels, labels)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the test examples of the current task, as `Task.test_batches`."""
        return self.current.test_batches(batch_size)


class Gradual(SupervisedStream[Task]):
    """Stream whose tasks fade into each other (arXiv 2602.09234, 2026, mixing of samples).

    Segment j of a base task has, with n segments of which t are a transition, each example with probability
    ``1 - (j + 1) / (t + 1)`` from the base task before, at the same position of its training set, while
    j < t. The first base task has none before. In the published code, gradual arms train longer than abrupt
    ones; here, all have the same training.

    Args:
        base: Stream whose tasks are mixed.
        num_tasks: Number of segments in all, at least 1.
        segments: Segments of each base task.
        transition: Share of these segments in which the task before is mixed in.
        device: Device of the examples of the base stream.

    Raises:
        ValueError: if the base stream has too few tasks.
    """

    def __init__(
        self,
        base: SupervisedStream[Any],
        num_tasks: int,
        *,
        segments: int = 10,
        transition: float = 0.5,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_tasks, base.seed)
        needed = -(-num_tasks // segments)
        if len(base) < needed:
            raise ValueError(
                f"{num_tasks} segments, {segments} of each task, need {needed} tasks: the base stream has"
                f" {len(base)}."
            )
        self._base, self._segments, self._device = base, segments, device
        self._transition = round(transition * segments)

    def share_before(self, index: int) -> float:
        """Return the share of the examples of a segment that are of the base task before."""
        task, segment = divmod(index, self._segments)
        if task == 0 or segment >= self._transition:
            return 0.0
        return 1 - (segment + 1) / (self._transition + 1)

    def make_task(self, index: int) -> Task:
        """Return segment `index`, from 0 to `num_tasks` - 1."""
        position = index // self._segments
        current = self._base[position]
        share = self.share_before(index)
        before = self._base[position - 1] if share else current
        drawn = random_integers(current.num_train, _RESOLUTION, self.seed, index, 2)
        is_before = drawn < round(share * _RESOLUTION)
        return MixedTask(index, before, current, is_before.to(self._device))

    def describe(self, index: int) -> dict[str, Any]:
        """Return the index of the base task, and the share of examples that are of the one before."""
        return {"base_task": index // self._segments, "share_before": self.share_before(index)}
