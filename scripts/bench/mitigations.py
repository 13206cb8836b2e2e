"""Cost of mitigations: their hooks in the trainer, and attached to a loop written by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from plasticity.mitigations import PLAIN_METHOD, Mitigation, ReDo, SeededMethod
from plasticity.mitigations.attach import attach
from plasticity.mitigations.context import Context
from plasticity.scripts.bench.comparison import Comparison, Effort, Side
from plasticity.scripts.bench.learners import (
    MNIST,
    image_network,
    learning_step,
    make_classifier,
    on_batches,
    synthetic_task,
    train_whole_task,
)
from plasticity.scripts.bench.rows import Row

STEPS = 1000
"""Steps of a turn in a loop written by hand: ReDo looks at the units once."""


@dataclass(frozen=True, kw_only=True)
class Idle(Mitigation):
    """Hooks at every step that do nothing."""

    name: ClassVar[str] = "idle"
    claims: ClassVar[str] = "nothing"

    def before_step(self, context: Context) -> None:
        """Do nothing."""

    def after_step(self, context: Context) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class IdleReader(Idle):
    """The same, with the features of every step, which nobody reads."""

    reads_units: ClassVar[bool] = True


CASES: tuple[tuple[str, Mitigation, float | None], ...] = (
    ("ReDo every 1000 steps", ReDo(), 1.05),
    ("hooks at every step that do nothing", Idle(), 1.03),
    ("the same with features of every step", IdleReader(), None),
)
"""Mitigations by their description, with the goals of their cost."""


def mitigations(effort: Effort) -> list[Row]:
    """Measure a step with mitigations against the same step without, for the CNN of permuted-mnist."""
    return [
        Comparison(
            case=f"{label}, {where}: vs none",
            unit="time",
            sides=partial(sides, effort, mitigation),
            goal=goal,
            rounds=9,
        ).measured(effort)
        for where, sides in (("trainer", _trainer_sides), ("attached to a loop", _loop_sides))
        for label, mitigation, goal in CASES
    ]


def _trainer_sides(effort: Effort, mitigation: Mitigation) -> tuple[Side, Side]:
    task, network = synthetic_task(effort), image_network().to(effort.device)
    with_it, without = (
        make_classifier(copy.deepcopy(network), effort.device, method)
        for method in (SeededMethod((mitigation,)), PLAIN_METHOD)
    )
    return partial(train_whole_task, with_it, task), partial(train_whole_task, without, task)


def _loop_sides(effort: Effort, mitigation: Mitigation) -> tuple[Side, Side]:
    return _loop(effort, mitigation), _loop(effort, None)


def _loop(effort: Effort, mitigation: Mitigation | None) -> Side:
    network = image_network().to(effort.device)
    agent = MNIST.agent
    optimizer = torch.optim.SGD(
        network.parameters(), lr=agent.learning_rate, momentum=agent.momentum
    )
    if mitigation is not None:
        attach(network, optimizer, mitigation)
    step = on_batches(learning_step(network, optimizer), effort)

    def train() -> None:
        for _ in range(effort.size(STEPS, 2)):
            step()

    return train
