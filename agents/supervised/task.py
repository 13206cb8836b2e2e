"""Interface of a task, as the training of a network needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class TaskSpec(Protocol):
    """Interface of a task's specification."""

    @property
    def output_size(self) -> int:
        """Number of logits."""

    @property
    def loss(self) -> str | None:
        """Name of the loss. None: that of the configuration."""

    @property
    def passes(self) -> int:
        """Factor of the number of passes over the training examples."""

    @property
    def active(self) -> tuple[int, ...] | tuple[tuple[int, ...], ...] | None:
        """Classes that the task has; of R stacked tasks whose classes differ, those of each. None: all."""


class Task(Protocol):
    """Interface of a task: batches of inputs and labels, with a leading axis if it holds R stacked tasks."""

    @property
    def index(self) -> int:
        """Position in the stream, from 0."""

    @property
    def spec(self) -> TaskSpec:
        """Loss and active classes."""

    @property
    def num_train(self) -> int:
        """Number of training examples."""

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (..., batch, *input_shape) and labels at indices (..., batch).

        Labels are classes (..., batch), or for the loss "regression" numbers (..., batch, output_size).
        """

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the test set in batches, without shuffling; nothing if there is none."""


@runtime_checkable
class EpochTask(Protocol):
    """Interface of a task whose training examples differ from epoch to epoch."""

    def in_epoch(self, epoch: int) -> Task:
        """Return the task with the training examples of an epoch, from 0."""


@runtime_checkable
class ValidatedTask(Protocol):
    """Interface of a task with examples for validation."""

    @property
    def num_validation(self) -> int:
        """Number of examples for validation; 0 if there are none."""

    def validation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the examples for validation in batches, without shuffling."""


def require_validation(task: Task) -> None:
    """Raise a ValueError unless a task has examples for validation."""
    if not isinstance(task, ValidatedTask) or task.num_validation == 0:
        raise ValueError(
            f"--keep-best needs examples for validation, and task {task.index} has none: set some apart, as"
            " with --validation-per-class 50 where that is an option, or leave it out."
        )
