"""Streams of tasks: what a task and a stream are, and several streams stacked into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args, runtime_checkable

import torch
from torch import Tensor

from plasticity.checks import as_integer, require_integer, require_known

Loss = Literal["cross-entropy", "squared-error", "regression"]
"""Losses that a task can request. regression: the mean square of outputs minus labels, which are real
numbers."""


@dataclass(frozen=True, kw_only=True)
class SupervisedStreamConfig:
    """Settings of a supervised stream: a stream has a subclass, which loads its data and makes it.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    fixed: ClassVar[tuple[str, ...]] = ()
    """Settings that the name of a benchmark stands for: they are no options."""

    described: ClassVar[tuple[str, ...]] = ()
    """Keys of a row under which the stream tells what its task is (`Stream.describe`)."""

    num_tasks: int = field(metadata={"option": "tasks"})
    """Number of tasks in the stream; a larger number extends a finished run."""

    def __post_init__(self) -> None:
        require_integer("num_tasks", self.num_tasks, minimum=1)

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that `load` imports late, which processes may import ahead; none by default."""
        return ()

    def load(self, device: torch.device | str = "cpu") -> Any:
        """Return the data of the stream on a device, which all runs of one process share.

        Data that are not here are downloaded, if they can be.

        Raises:
            ValueError: if they are missing or not as expected; the message says what to do.
        """
        raise NotImplementedError

    def make(self, data: Any, seed: int) -> SupervisedStream[Task]:
        """Return the stream of one run.

        Args:
            data: What `load` returned; the stream's batches are on its device.
            seed: Seed of the tasks.

        Raises:
            ValueError: if the settings and the data do not fit together.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Sizes, loss and active classes of a task, which a learner needs besides its batches.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a value is out of range.

    Examples:
        >>> TaskSpec(input_shape=(1, 28, 28), output_size=10).passes
        1
    """

    input_shape: tuple[int, ...]
    """Shape of one input."""

    output_size: int
    """Number of outputs of the network: of a classifier, the classes of the whole stream."""

    loss: Loss | None = None
    """Training loss. None: the learner's choice, between those of classes."""

    passes: int = 1
    """Factor of the learner's number of passes over the training examples."""

    active: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
    """Classes that the task has, in ascending order; a learner ignores the logits of all others. None: all
    classes. Of stacked tasks whose classes differ: the classes of each."""

    def __post_init__(self) -> None:
        for size in self.input_shape:
            require_integer("a size of input_shape", size, minimum=1)
        require_integer("output_size", self.output_size, minimum=1)
        require_integer("passes", self.passes, minimum=1)
        if self.loss is not None:
            require_known("loss", self.loss, get_args(Loss))
        if self.active is None:
            return
        is_of_each = bool(self.active) and isinstance(self.active[0], tuple)
        for classes in self.active if is_of_each else (self.active,):
            self._require_classes(classes)

    def _require_classes(self, classes: Any) -> None:
        for label in classes:
            require_integer("an active class", label, minimum=0, maximum=self.output_size - 1)
        if not classes or list(classes) != sorted(set(classes)):
            raise ValueError(
                f"active must hold at least one class, each once and in ascending order: {classes}."
                " Give None if all classes are active."
            )


def stacked_spec(specs: Sequence[TaskSpec]) -> TaskSpec:
    """Return the spec of stacked tasks, whose own specs differ in their active classes at most."""
    if all(each.active == specs[0].active for each in specs):
        return specs[0]
    whole = tuple(range(specs[0].output_size))
    of_each: Any = tuple([each.active or whole for each in specs])
    return replace(specs[0], active=of_each)


class Task(Protocol):
    """Task that is learned from batches of examples.

    A stacked task holds R tasks at the same position in their streams; all its tensors have a leading
    axis of length R.
    """

    @property
    def index(self) -> int:
        """Index in the stream, from 0."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes, loss and active classes; the sizes are those of one task, if it is a stacked one."""

    @property
    def num_train(self) -> int:
        """Number of training examples."""

    @property
    def num_test(self) -> int:
        """Number of test examples; 0 if the task has no test set."""

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, without waiting for the device.

        Args:
            indices: Indices of the examples, 0 to `num_train` - 1, int64, on the task's device. Shape:
                (batch,), or (R, batch) of a stacked task.

        Returns:
            The inputs, shape (..., batch, *input_shape), and their labels, both new tensors: classes, int64,
            shape (..., batch), or for a regression numbers, shape (..., batch, output_size).
        """

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples, always in the same order.

        Args:
            batch_size: Examples in a batch, at least 1; the last batch may have fewer.

        Returns:
            An iterator over inputs and labels, shaped as those of `train_batch`.

        Raises:
            TypeError: if the batch size is not an integer.
            ValueError: if it is below 1.
        """


@runtime_checkable
class EpochTask(Protocol):
    """Task whose training examples differ from epoch to epoch, as augmented images do."""

    def in_epoch(self, epoch: int) -> Task:
        """Return the task with the training examples of an epoch, from 0, always the same."""


@runtime_checkable
class ValidatedTask(Protocol):
    """Task with examples for validation, by which a learner may choose."""

    @property
    def num_validation(self) -> int:
        """Number of examples for validation; 0 if there are none."""

    def validation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over these examples, always in the same order; as `Task.test_batches`."""


Task_co = TypeVar("Task_co", covariant=True)
"""Kind of the tasks of a stream."""


class Stream(Generic[Task_co]):
    """Sequence of tasks: `stream[k]` is task `k`, a pure function of (seed, k).

    A task is made without visiting any other. A subclass implements `make_task`.

    Args:
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the tasks, 0 or more, of any number of bits.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if one is out of range.

    Examples:
        >>> class Squares(Stream):
        ...     def make_task(self, index):
        ...         return index**2
        >>> list(Squares(num_tasks=4, seed=0))
        [0, 1, 4, 9]
    """

    def __init__(self, num_tasks: int, seed: int) -> None:
        self.num_tasks = require_integer("num_tasks", num_tasks, minimum=1)
        self.seed = require_integer("seed", seed, minimum=0)

    def make_task(self, index: int) -> Task_co:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        raise NotImplementedError

    def describe(self, index: int) -> dict[str, Any]:
        """Return what a row of metrics tells of a task besides its index; nothing by default."""
        return {}

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: int) -> Task_co:
        """Return a task of the stream.

        Args:
            index: Index of the task, from 0; negative indices are not supported.

        Raises:
            TypeError: if the index is not an integer; slices are not supported.
            IndexError: if there is no such task.
        """
        number = as_integer("The index of a task", index)
        if not 0 <= number < self.num_tasks:
            raise IndexError(
                f"The stream has the tasks 0 to {self.num_tasks - 1}: {number}. "
                "Choose a larger num_tasks for a longer stream; its first tasks stay the same."
            )
        return self.make_task(number)

    def __iter__(self) -> Iterator[Task_co]:
        return (self[index] for index in range(self.num_tasks))


class SupervisedStream(Stream[Task_co]):
    """Stream of tasks that are learned from batches of examples (`Task`), which can be stacked.

    Examples:
        >>> digits = load_dataset("digits")
        >>> streams: list[SupervisedStream] = [PermutedImages(digits, 2, seed) for seed in (0, 1)]
        >>> both = streams[0].stack_tasks([stream[1] for stream in streams])
        >>> both.train_batch(torch.tensor([[0, 1, 2], [0, 1, 2]]))[0].shape
        torch.Size([2, 3, 1, 8, 8])
    """

    def stack_tasks(self, tasks: Sequence[Task]) -> Task:
        """Return several tasks as a stacked one.

        A subclass may return one that is faster, with equal batches.

        Args:
            tasks: Tasks of equal index: one of this stream, first, and one of each stream stacked with it.
                Their numbers of examples are equal, and their specs but for the active classes.
        """
        return StackedTask(tuple(tasks))


@dataclass(frozen=True)
class StackedTask:
    """R tasks as one, in the general form: each makes its batch, and the batches are stacked."""

    tasks: tuple[Task, ...]
    """The tasks, with equal indices and numbers of examples, and equal specs but for the active classes."""

    @property
    def index(self) -> int:
        """Index of the tasks in their streams, from 0."""
        return self.tasks[0].index

    @property
    def spec(self) -> TaskSpec:
        """Sizes and loss of each task, and active classes."""
        return stacked_spec([task.spec for task in self.tasks])

    @property
    def num_train(self) -> int:
        """Number of training examples of each task."""
        return self.tasks[0].num_train

    @property
    def num_test(self) -> int:
        """Number of test examples of each task."""
        return self.tasks[0].num_test

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples of every task, as `Task.train_batch`."""
        return _stacked(
            [task.train_batch(own) for task, own in zip(self.tasks, indices, strict=True)]
        )

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test examples of all tasks, as `Task.test_batches`."""
        batches = [task.test_batches(batch_size) for task in self.tasks]
        return (_stacked(batch) for batch in zip(*batches, strict=True))

    def in_epoch(self, epoch: int) -> StackedTask:
        """Return the tasks with the training examples of an epoch, where these differ."""
        of_epoch = [
            task.in_epoch(epoch) if isinstance(task, EpochTask) else task for task in self.tasks
        ]
        return StackedTask(tuple(of_epoch))

    @property
    def num_validation(self) -> int:
        """Number of examples for validation of each task; 0 unless all have as many."""
        counts = {
            task.num_validation if isinstance(task, ValidatedTask) else 0 for task in self.tasks
        }
        return counts.pop() if len(counts) == 1 else 0

    def validation_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the examples for validation of all tasks."""
        validated = [task for task in self.tasks if isinstance(task, ValidatedTask)]
        batches = [task.validation_batches(batch_size) for task in validated]
        return (_stacked(batch) for batch in zip(*batches, strict=True))


def _stacked(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*batch, strict=True)
    return torch.stack(inputs), torch.stack(labels)


class StackedStream:
    """R streams as one: `stacked[k]` holds task `k` of each. Made by `stack`."""

    def __init__(self, streams: Sequence[SupervisedStream[Task]]) -> None:
        self.streams = tuple(streams)

    def __len__(self) -> int:
        return len(self.streams[0])

    def __getitem__(self, index: int) -> Task:
        """Return the tasks with this index, stacked.

        Raises:
            TypeError: if the index is not an integer.
            IndexError: if there are no such tasks.
            ValueError: if the sizes, losses or numbers of examples of the tasks differ.
        """
        tasks = [stream[index] for stream in self.streams]
        _require_alike(tasks)
        return self.streams[0].stack_tasks(tasks)

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))


def stack(streams: Sequence[SupervisedStream[Task]]) -> StackedStream:
    """Stack R streams, whose tasks are then learned at once.

    Args:
        streams: Streams of equal length; their seeds may be equal.

    Raises:
        ValueError: if there are no streams, or their lengths, or the sizes, losses or numbers of examples
            of their first tasks differ.

    Examples:
        >>> streams = [PermutedImages(load_dataset("digits"), num_tasks=2, seed=seed) for seed in (0, 1)]
        >>> stack(streams)[1].index
        1
    """
    if not streams:
        raise ValueError("Stacked streams need at least one stream: an empty list was given.")
    for position, stream in enumerate(streams):
        if len(stream) != len(streams[0]):
            raise ValueError(
                f"streams[{position}] has {len(stream)} tasks, streams[0] {len(streams[0])}: stack"
                " streams of equal length."
            )
    _require_alike([stream[0] for stream in streams])  # now, before training
    return StackedStream(streams)


def _require_alike(tasks: Sequence[Task]) -> None:
    """Raise a ValueError, with the position, unless sizes, losses and numbers of examples are equal."""
    first = _shared_by_stacked(tasks[0])
    for position, task in enumerate(tasks):
        for name, found in _shared_by_stacked(task).items():
            expected = first[name]
            if found != expected:
                raise ValueError(
                    f"Task {task.index} of streams[{position}] has {name} {found}, that of streams[0]"
                    f" {expected}: stack streams of tasks that differ in their examples and classes only."
                )


def _shared_by_stacked(task: Task) -> dict[str, Any]:
    return {
        "spec": replace(task.spec, active=None),
        "num_train": task.num_train,
        "num_test": task.num_test,
    }
