"""Streams: indices, specs, and the general stack."""

import pytest
import torch

from plasticity.tasks.streams.base import Stream, SupervisedStream, TaskSpec, stack

SPEC = TaskSpec(input_shape=(2,), output_size=3)


class Numbers:
    """Task whose inputs are (seed, index of the example), with the example's index modulo 3 as label."""

    def __init__(self, seed, index, spec=SPEC, num_train=6, num_test=5):
        self.seed, self.index, self.spec = seed, index, spec
        self.num_train, self.num_test = num_train, num_test

    def train_batch(self, indices):
        inputs = torch.stack([torch.full_like(indices, self.seed), indices], dim=-1)
        return inputs.float(), indices % 3

    def test_batches(self, batch_size):
        return map(self.train_batch, torch.arange(self.num_test).split(batch_size))


class NumberStream(SupervisedStream):
    """Stream of `Numbers`."""

    def __init__(self, seed, num_tasks=4, **settings):
        super().__init__(num_tasks, seed)
        self.settings = settings

    def make_task(self, index):
        return Numbers(self.seed, index, **self.settings)


def test_the_general_stack_holds_the_batches_of_each_task():
    streams = [NumberStream(seed) for seed in (7, 8)]
    stacked = stack(streams)
    assert len(stacked) == 4
    assert [task.index for task in stacked] == [0, 1, 2, 3]
    task = stacked[2]
    assert (task.index, task.spec, task.num_train, task.num_test) == (2, SPEC, 6, 5)
    inputs, labels = task.train_batch(torch.tensor([[4, 0], [1, 5]]))
    assert inputs.tolist() == [[[7, 4], [7, 0]], [[8, 1], [8, 5]]]
    assert labels.tolist() == [[1, 0], [1, 2]]
    batches = list(task.test_batches(3))
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(2, 3, 2), (2, 2, 2)]
    assert batches[1][0].tolist() == [[[7, 3], [7, 4]], [[8, 3], [8, 4]]]
    assert batches[1][1].tolist() == [[0, 1], [0, 1]]


def test_indices_are_those_of_the_stream():
    stream = NumberStream(0)
    assert len(stream) == 4
    assert [task.index for task in stream] == [0, 1, 2, 3]
    assert stream.describe(2) == {}
    for sequence in (stream, stack([stream, stream])):
        for index in (4, -1, 10**30):
            with pytest.raises(IndexError, match=rf"tasks 0 to 3: {index}\. Choose a larger"):
                sequence[index]
        with pytest.raises(TypeError, match="index of a task must be an integer"):
            sequence[1.0]


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], "at least one stream"),
        ([NumberStream(0), NumberStream(0, 5)], r"streams\[1\] has 5 tasks, streams\[0\] 4"),
        (
            [NumberStream(0), NumberStream(0), NumberStream(0, num_train=7)],
            r"Task 0 of streams\[2\] has num_train 7, that of streams\[0\] 6",
        ),
        ([NumberStream(0), NumberStream(0, num_test=1)], r"streams\[1\] has num_test 1,"),
        (
            [NumberStream(0), NumberStream(0, spec=TaskSpec(input_shape=(3,), output_size=3))],
            r"streams\[1\] has spec TaskSpec\(input_shape=\(3,\)",
        ),
    ],
)
def test_streams_that_cannot_be_stacked(streams, message):
    with pytest.raises(ValueError, match=message):
        stack(streams)


def test_stacked_tasks_may_differ_in_their_active_classes():
    first, second = (TaskSpec(input_shape=(2,), output_size=3, active=a) for a in ((1,), (0, 2)))
    whole = TaskSpec(input_shape=(2,), output_size=3)
    for specs, active in (
        ((first, second), ((1,), (0, 2))),
        ((first, whole), ((1,), (0, 1, 2))),
        ((first, first), (1,)),
        ((whole, whole), None),
    ):
        task = stack([NumberStream(0, spec=each) for each in specs])[1]
        assert task.spec == TaskSpec(input_shape=(2,), output_size=3, active=active)


def test_a_later_task_that_differs_is_refused():
    class Growing(NumberStream):
        def make_task(self, index):
            return Numbers(self.seed, index, num_train=6 + index * self.seed)

    stacked = stack([Growing(0), Growing(1)])
    assert stacked[0].num_train == 6
    with pytest.raises(ValueError, match=r"Task 2 of streams\[1\] has num_train 8, .*\[0\] 6"):
        stacked[2]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_tasks": 0}, ValueError, "num_tasks must be at least 1: 0"),
        ({"num_tasks": 2.0}, TypeError, "num_tasks must be an integer, not 2.0"),
        ({"num_tasks": True}, TypeError, "num_tasks must be an integer, not True"),
        ({"seed": -1}, ValueError, "seed must be at least 0: -1"),
        ({"seed": None}, TypeError, "seed must be an integer, not None"),
    ],
)
def test_wrong_lengths_and_seeds(changed, error, message):
    with pytest.raises(error, match=message):
        Stream(**{"num_tasks": 3, "seed": 0, **changed})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"output_size": 0}, ValueError, "output_size must be at least 1: 0"),
        ({"input_shape": (1, 0)}, ValueError, "a size of input_shape must be at least 1: 0"),
        ({"loss": "squared-errors"}, ValueError, "Unknown loss .* Did you mean 'squared-error'"),
        ({"active": ()}, ValueError, r"active must hold at least one class.*: \(\)"),
        ({"active": (1, 1)}, ValueError, r"each once and in ascending order: \(1, 1\)"),
        ({"active": (2, 1)}, ValueError, r"in ascending order: \(2, 1\)"),
        ({"active": (0, 3)}, ValueError, "an active class must be at least 0 and at most 2: 3"),
        ({"active": (0.5,)}, TypeError, "an active class must be an integer"),
        ({"active": ((0, 1), ())}, ValueError, r"active must hold at least one class.*: \(\)"),
        ({"active": ((0, 1), (2, 1))}, ValueError, r"in ascending order: \(2, 1\)"),
    ],
)
def test_wrong_specs(changed, error, message):
    with pytest.raises(error, match=message):
        TaskSpec(**{"input_shape": (2,), "output_size": 3, **changed})
