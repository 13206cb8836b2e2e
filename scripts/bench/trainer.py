"""Cost of the trainer: against loops written by hand, and with the tracking of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from plasticity.agents.networks import MLP, Network
from plasticity.metrics.tracker import Tracker
from plasticity.scripts.bench.comparison import Comparison, Effort, Side
from plasticity.scripts.bench.learners import (
    MNIST,
    SYRE,
    image_network,
    learning_step,
    make_classifier,
    synthetic_task,
    train_whole_task,
)
from plasticity.scripts.bench.rows import Row
from plasticity.tasks import ImageTask

Step = Callable[[Tensor, Tensor], None]
"""Function that learns from the images and labels of a batch."""

Loop = Callable[[ImageTask, Step, int], Side]
"""Function from a task, a step and a batch size to a function that trains on the task once."""

_NETWORKS = (
    ("CNN of permuted-mnist", MNIST.network, 1.1),
    ("MLP 784-256-10", MLP(hidden=(256,)), 1.3),
)


def trainer(effort: Effort) -> list[Row]:
    """Measure the trainer's examples per second against the best hand-written loop and a DataLoader loop."""
    return [
        Comparison(
            case=f"{label}: vs {against}",
            unit="speed",
            sides=partial(trainer_sides, effort, network, loop),
            goal=goal,
            rounds=rounds,
        ).measured(effort)
        for label, network, loader_goal in _NETWORKS
        for against, loop, goal, rounds in (
            ("the best loop by hand", best_loop, 0.95, 9),
            ("a DataLoader loop", loader_loop, loader_goal, 5),
        )
    ]


def trainer_sides(effort: Effort, config: Network, loop: Loop) -> tuple[Side, Side]:
    """Return a whole task of the trainer and of a loop by hand, with the benchmark's settings."""
    task = synthetic_task(effort)
    network = image_network(config).to(effort.device)
    classifier = make_classifier(copy.deepcopy(network), effort.device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=MNIST.agent.learning_rate,
        momentum=MNIST.agent.momentum,
        fused=True if loop is best_loop else None,  # None is torch's default
    )
    theirs = loop(task, learning_step(network, optimizer), MNIST.agent.batch_size)
    return partial(train_whole_task, classifier, task), theirs


def tracking(effort: Effort) -> list[Row]:
    """Measure the time of the metrics at a task's end, as a share of the training on the task."""
    comparison = Comparison(
        case="CNN of permuted-mnist: once per task vs training on it",
        unit="time",
        sides=partial(_tracking_sides, effort),
        goal=0.02,
        rounds=9,
    )
    return [comparison.measured(effort)]


def _tracking_sides(effort: Effort) -> tuple[Side, Side]:
    task = synthetic_task(effort)
    probe_size = effort.size(MNIST.tracking.probe_size, 32)
    classifier = make_classifier(image_network(), effort.device, SYRE)

    def measure() -> None:
        images, _ = next(iter(task.test_batches(probe_size)))
        Tracker(classifier.network, images).measure()

    return measure, partial(train_whole_task, classifier, task)


# ---- the alternatives -------------------------------------------------------------------------------


def best_loop(task: ImageTask, step: Step, batch_size: int) -> Side:
    """Return a loop over a permuted float copy of the data, without statistics.

    The copy is made in advance, untimed; a run would have to make one for every task.
    """
    images, labels = _copied(task)

    def train() -> None:
        data_order = torch.randperm(len(labels), device=labels.device)
        for indices in torch.split(data_order, batch_size):
            step(images.index_select(0, indices), labels.index_select(0, indices))

    return train


def loader_loop(task: ImageTask, step: Step, batch_size: int) -> Side:
    """Return the loop of most tutorials: a shuffling loader over the same copy on the CPU.

    It has no workers: they take another core, and for data in memory their queue costs more than it saves.
    """
    images, labels = (tensor.cpu() for tensor in _copied(task))
    loader = DataLoader(TensorDataset(images, labels), batch_size, shuffle=True)
    device = task.permutation.device

    def train() -> None:
        for batch_images, batch_labels in loader:
            step(batch_images.to(device), batch_labels.to(device))

    return train


def _copied(task: ImageTask) -> tuple[Tensor, Tensor]:
    return task.train_batch(torch.arange(task.num_train, device=task.permutation.device))
