"""Cost of every mitigation: time and memory of a step, against the same step without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from plasticity.agents.networks import CNN, MLP, Network
from plasticity.agents.supervised.single import Classifier
from plasticity.mitigations import MITIGATIONS, PLAIN_METHOD, Mitigation, SeededMethod
from plasticity.scripts.bench.comparison import Comparison, Effort, Side
from plasticity.scripts.bench.learners import MNIST, synthetic_task, train_steps
from plasticity.scripts.bench.memory import memory_use
from plasticity.scripts.bench.rows import Row
from plasticity.scripts.config.benchmarks import BENCHMARKS
from plasticity.tasks import ImageTask


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Network and batch of a step that is measured."""

    network: Network
    """Network."""

    batch_size: int
    """Examples of a step."""

    steps: int
    """Steps of a turn: what acts more rarely does so once a turn."""

    goal: float | None
    """Goal of a step's time over that without a mitigation."""


SETTINGS = {
    "CNN, batch 64": Setting(network=CNN(), batch_size=64, steps=50, goal=1.25),
    "CNN, batch 1": Setting(network=CNN(), batch_size=1, steps=200, goal=None),
    "MLP of 3 x 100, batch 64": Setting(
        network=MLP(hidden=(100,) * 3), batch_size=64, steps=300, goal=None
    ),
    "MLP of 3 x 100, batch 1": Setting(
        network=MLP(hidden=(100,) * 3), batch_size=1, steps=400, goal=None
    ),
}
"""Settings by description."""


COSTLY = {
    "wasserstein": "sorts all weights",
    **dict.fromkeys(("churn", "infer", "proximal-features"), "needs a second backward pass"),
}
"""Methods that cannot meet the settings' goals, with the reason."""

GOALS = {("cbp", "MLP of 3 x 100, batch 1"): 1.4}
"""Goals of their own, by method and setting."""


def methods(effort: Effort) -> Iterator[Row]:
    """Measure a step with each mitigation, at the settings of permuted-mnist, against one without."""
    task = synthetic_task(effort)
    for name in MITIGATIONS:
        for label, setting in list(SETTINGS.items())[: effort.size(len(SETTINGS), 1)]:
            steps = effort.size(setting.steps, 2)
            mitigation, frequency = _within_a_turn(name, steps)
            goal = None if name in COSTLY else GOALS.get((name, label), setting.goal)
            make = partial(_classifier, effort, setting)
            yield Comparison(
                case=f"{name}, {label}",
                unit="time",
                sides=partial(_sides, make, mitigation, task, steps),
                goal=goal,
                rounds=7,
                note=", ".join(filter(None, [COSTLY.get(name), frequency])),
            ).measured(effort)
    for name in MITIGATIONS:
        yield _memory_row(effort, name, task)


def _within_a_turn(name: str, steps: int) -> tuple[Mitigation, str]:
    """Return a mitigation that acts at least once a turn, and what differs from its defaults."""
    mitigation = BENCHMARKS[MNIST.benchmark].mitigation(name)
    # not the cadence: some look at every step, and act rarely
    every = getattr(mitigation, "every", 1)
    if every is not None and every <= steps:
        return mitigation, ""
    rarely: dict[str, Any] = {"every": steps}
    return replace(mitigation, **rarely), f"every={steps}, not {every}"


def _sides(
    make: partial[Classifier], mitigation: Mitigation, task: ImageTask, steps: int
) -> tuple[Side, Side]:
    with_it, without = make(mitigation), make(None)
    return partial(train_steps, with_it, task, steps), partial(train_steps, without, task, steps)


def _classifier(effort: Effort, setting: Setting, mitigation: Mitigation | None) -> Classifier:
    method = PLAIN_METHOD if mitigation is None else SeededMethod((mitigation,), anchor_seed=0)
    torch.manual_seed(0)
    network: nn.Module = setting.network.make((1, 28, 28), 10, method.mitigations)
    # With a single example, the benchmark's rate would diverge: numbers of another speed.
    rate = MNIST.agent.learning_rate * setting.batch_size / MNIST.agent.batch_size
    config = replace(MNIST.agent, batch_size=setting.batch_size, learning_rate=rate)
    return Classifier(network, config, method, data_order_seed=0, device=effort.device)


def _memory_row(effort: Effort, name: str, task: ImageTask) -> Row:
    """Return the row of the memory that tensors take at most: what is made first, and in two steps."""
    label, setting = next(iter(SETTINGS.items()))
    mitigation, note = _within_a_turn(name, 2)
    ours, theirs = (
        memory_use(partial(_make_and_train, effort, setting, each, task), effort.device).peak
        for each in (mitigation, None)
    )
    return Row(
        f"{name}, {label}",
        ours / theirs,
        "memory",
        ours=float(ours),
        theirs=float(theirs),
        note=note,
    )


def _make_and_train(
    effort: Effort, setting: Setting, mitigation: Mitigation | None, task: ImageTask
) -> None:
    train_steps(_classifier(effort, setting, mitigation), task, 2)
