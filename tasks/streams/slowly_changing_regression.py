"""Stream of regression tasks whose inputs change slowly: bit flipping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from plasticity.checks import require_integer, require_known, require_number
from plasticity.tasks.streams.base import SupervisedStream, SupervisedStreamConfig, TaskSpec
from plasticity.tasks.streams.draws import random_integers

Flips = Literal["one", "all"]
"""Changes from task to task by their name."""

_INPUT, _SLOW, _FLIPS, _TARGET = range(4)  # keys of the draws


@dataclass(frozen=True, kw_only=True)
class SlowlyChangingRegressionConfig(SupervisedStreamConfig):
    """Settings of slowly-changing regression.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    num_examples: int = field(default=10_000, metadata={"option": "examples"})
    """Examples of a task, each of which is seen once: the time from one change to the next."""

    slow_bits: int = 15
    """Input bits that stay through a task."""

    random_bits: int = 5
    """Input bits that are drawn anew for every example."""

    flips: Flips = "one"
    """Change between two tasks. one: a single slow bit flips, as in the paper. all: every slow bit is drawn
    anew, as by default in the published code."""

    target_units: int = 100
    """Threshold units of the network that gives the targets."""

    beta: float = 0.7
    """Share of its inputs by which the threshold of a target's unit is set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_examples", "slow_bits", "target_units"):
            require_integer(name, getattr(self, name), minimum=1)
        require_integer("random_bits", self.random_bits, minimum=0)
        require_known("flips", self.flips, get_args(Flips))
        require_number("beta", self.beta, minimum=0.0)

    def load(self, device: torch.device | str = "cpu") -> torch.device:
        """Return the device of the examples: there are no data to load."""
        return torch.device(device)

    def make(self, data: torch.device, seed: int) -> SlowlyChangingRegression:
        """Return the stream of one run."""
        return SlowlyChangingRegression(self, seed, data)


@dataclass(frozen=True, eq=False)
class RegressionTask:
    """Task whose labels are numbers; all of its examples are in memory."""

    index: int
    """Index in the stream, from 0."""

    inputs: Tensor
    """Training inputs, float32. Shape: (..., examples, features)."""

    targets: Tensor
    """Their labels, float32. Shape: (..., examples, outputs)."""

    num_test: ClassVar[int] = 0
    """Number of test examples."""

    @property
    def spec(self) -> TaskSpec:
        """Sizes, and the loss of a regression."""
        shape, outputs = self.inputs.shape[-1:], self.targets.shape[-1]
        return TaskSpec(input_shape=tuple(shape), output_size=outputs, loss="regression")

    @property
    def num_train(self) -> int:
        """Number of training examples."""
        return self.inputs.shape[-2]

    def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return training examples, as `Task.train_batch`."""
        return _rows(self.inputs, indices), _rows(self.targets, indices)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an empty iterator: what is measured is the error on examples before they are learned.

        Raises:
            TypeError: if the batch size is not an integer.
            ValueError: if it is below 1.
        """
        require_integer("batch_size", batch_size, minimum=1)
        return iter(())


def _rows(matrix: Tensor, indices: Tensor) -> Tensor:
    """Return rows. Shapes: (..., rows, columns), (..., batch), (..., batch, columns)."""
    if indices.dim() == 1:
        return matrix.index_select(0, indices)
    return matrix.gather(-2, indices.unsqueeze(-1).expand(*indices.shape, matrix.shape[-1]))


class SlowlyChangingRegression(SupervisedStream[RegressionTask]):
    """Stream of bits whose first ones stay through a task (Dohare et al., Nature 2024, extended data).

    The target is a fixed random network: threshold units with weights and biases of -1 or 1 and a linear
    output with weights of -1 or 1. A unit with m inputs, of which S = (m - sum of weights + bias) / 2 count
    as negative, is 1 where its sum exceeds beta (m + 1) - S. (The bias enters S with this sign in the
    published code, a fixed shift of the threshold.) The learner has far fewer units than the target, and must
    track it.

    The target and the bits are pure functions of the seed: slow bits of task k are those of task 0 with k
    flips. The published experiments share streams between methods, as ours do.

    Args:
        config: Settings of the stream.
        seed: Seed of the target and the bits, 0 or more, of any number of bits.
        device: Device of the examples.
    """

    def __init__(
        self,
        config: SlowlyChangingRegressionConfig,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config.num_tasks, seed)
        self.config, self._device = config, torch.device(device)
        self._target = _target(config.target_units, config.slow_bits + config.random_bits, seed)

    def slow_bits(self, index: int) -> Tensor:
        """Return the slow bits of a task, 0 or 1, int64. Shape: (slow_bits,)."""
        count, seed = self.config.slow_bits, self.seed
        if self.config.flips == "all":
            return random_integers(count, 2, seed, _SLOW, index)
        flipped = torch.zeros(count, dtype=torch.int64)
        for each in _flipped(count, seed, index):
            flipped[each] += 1
        return (random_integers(count, 2, seed, _SLOW, 0) + flipped) % 2

    def make_task(self, index: int) -> RegressionTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        examples, fast = self.config.num_examples, self.config.random_bits
        drawn = random_integers(examples * fast, 2, self.seed, _INPUT, index).view(examples, fast)
        bits = torch.cat([self.slow_bits(index).expand(examples, -1), drawn], dim=1)
        targets = target_outputs(bits, *self._target, beta=self.config.beta)
        return RegressionTask(
            index,
            bits.to(self._device, torch.float32),
            targets.to(self._device, torch.float32).unsqueeze(1),
        )

    def stack_tasks(self, tasks: Any) -> Any:
        """Return several tasks as a stacked one, whose batches are one gather."""
        if any(type(task) is not RegressionTask for task in tasks):
            return super().stack_tasks(tasks)
        return RegressionTask(
            tasks[0].index,
            torch.stack([task.inputs for task in tasks]),
            torch.stack([task.targets for task in tasks]),
        )


@lru_cache(maxsize=256)  # task after task asks for one more
def _flipped(count: int, seed: int, index: int) -> tuple[int, ...]:
    """Return the bits that flipped before a task, one for each task from 1 on."""
    return tuple(int(random_integers(1, count, seed, _FLIPS, task)) for task in range(1, index + 1))


def _target(units: int, inputs: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the target's input weights (units, inputs), biases and output weights (units,), of -1 and 1."""
    signs = 2 * random_integers(units * (inputs + 2), 2, seed, _TARGET) - 1
    weights, rest = signs[: units * inputs], signs[units * inputs :]
    return weights.view(units, inputs), rest[:units], rest[units:]


def target_outputs(
    bits: Tensor, weights: Tensor, biases: Tensor, outputs: Tensor, *, beta: float
) -> Tensor:
    """Return the targets of inputs.

    Args:
        bits: Inputs of 0 and 1, int64. Shape: (examples, inputs).
        weights: Input weights of -1 and 1, int64. Shape: (units, inputs).
        biases: Shape: (units,).
        outputs: Output weights. Shape: (units,).
        beta: Share of the inputs that sets the thresholds.

    Returns:
        Whole numbers, int64. Shape: (examples,).
    """
    inputs = weights.shape[1]
    negative = (inputs - weights.sum(1) + biases).double() / 2
    fires = (bits @ weights.T + biases).double() > beta * (inputs + 1) - negative
    return fires.long() @ outputs
