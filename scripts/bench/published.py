"""Speed at published settings: small networks at batch 1, where bookkeeping would be most of a step."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from plasticity.agents.networks import MLP
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.mitigations import PLAIN_METHOD, ContinualBackprop, SeededMethod, Syre
from plasticity.scripts.bench.comparison import Comparison, Effort, Side, both, goal_on_cores
from plasticity.scripts.bench.learners import (
    MNIST,
    SYRE,
    image_network,
    make_classifier,
    synthetic_dataset,
    synthetic_task,
    train_steps,
)
from plasticity.scripts.bench.published_loop import PublishedLoop
from plasticity.scripts.bench.rows import Row
from plasticity.scripts.bench.trainer import best_loop, trainer_sides
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.jobs import Job, JobGroup
from plasticity.scripts.run.pool import run_jobs
from plasticity.tasks import ImageDataset, PermutedImages
from plasticity.tasks.streams.base import stack
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

ONLINE = ClassifierConfig(learning_rate=0.003, batch_size=1)
"""Settings of online permuted MNIST (Dohare et al., 2024)."""

CONTINUAL = SeededMethod((ContinualBackprop(utility="adaptable-contribution"),))
"""Continual backprop on it."""

SMALL_DECAY = SeededMethod((Syre(strength=1e-3, sigma=SYRE.regularizer.sigma),), anchor_seed=0)
"""Syre with a strength whose decay of one step is near the rounding error of a weight."""

RUNS = 16
"""Runs that are done side by side."""

STACKED = 8
"""Runs that are stacked in one process."""


def published(effort: Effort) -> Iterator[Row]:
    """Measure training at batch 1 against the loop as it was published, and the cost of syre; CPU only."""
    effort = replace(effort, device="cpu")
    for comparison in (*_loops(effort), *_decays(effort), *_convolutions(effort), *_many(effort)):
        yield comparison.measured(effort)
    yield _runs(effort)


def _widths(effort: Effort) -> tuple[tuple[str, tuple[int, ...], int], ...]:
    """Return label, widths and steps of a turn of each network."""
    return (
        ("3 x 100", (effort.size(100, 8),) * 3, effort.size(2000, 2)),
        ("3 x 2000", (effort.size(2000, 16),) * 3, effort.size(40, 2)),
    )


def _loops(effort: Effort) -> Iterator[Comparison]:
    goals = {"3 x 100": (3.0, 3.0), "3 x 2000": (2.5, None)}
    for label, hidden, steps in _widths(effort):
        for method, goal in zip((PLAIN_METHOD, CONTINUAL), goals[label], strict=True):
            what = "with continual backprop, " if method is CONTINUAL else ""
            yield Comparison(
                case=f"MLP of {label}, batch 1: {what}vs the published loop",
                unit="speed",
                sides=both(
                    partial(_ours, effort, hidden, method, steps),
                    partial(_theirs, effort, hidden, steps, continual=method is CONTINUAL),
                ),
                goal=goal,
                rounds=9,
                steps=(steps, steps),
            )


def _decays(effort: Effort) -> Iterator[Comparison]:
    for label, hidden, steps in _widths(effort):
        for method, goal in ((SYRE, 1.2), (SMALL_DECAY, None)):
            yield Comparison(
                case=f"MLP of {label}, batch 1: syre, {method.regularizer.strength:g}, vs none",
                unit="time",
                sides=both(
                    partial(_ours, effort, hidden, method, steps),
                    partial(_ours, effort, hidden, PLAIN_METHOD, steps),
                ),
                goal=goal,
                rounds=9,
                steps=(steps, steps),
            )


def _convolutions(effort: Effort) -> Iterator[Comparison]:
    steps = effort.size(100, 2)
    task = synthetic_task(effort)

    def side(method: SeededMethod) -> Side:
        return partial(train_steps, make_classifier(image_network(), "cpu", method), task, steps)

    yield Comparison(
        case="CNN, batch 64: syre vs none",
        unit="time",
        sides=both(partial(side, SYRE), partial(side, PLAIN_METHOD)),
        goal=1.03,
        rounds=15,
        steps=(steps, steps),
    )
    yield Comparison(
        case="CNN, batch 64: vs the best loop by hand",
        unit="speed",
        sides=partial(trainer_sides, effort, MNIST.network, best_loop),
        goal=0.97,
        rounds=9,
    )


def _many(effort: Effort) -> Iterator[Comparison]:
    """Yield what tells whether runs on a CPU should be stacked, which they are not by default."""
    (label, hidden, _), steps = _widths(effort)[0], effort.size(200, 2)
    yield Comparison(
        case=f"{STACKED} stacked MLPs of {label}, batch 1: vs one after another",
        unit="speed",
        sides=both(
            partial(_stacked, effort, hidden, steps),
            partial(_ours, effort, hidden, PLAIN_METHOD, steps * STACKED),
        ),
        rounds=5,
        steps=(steps * STACKED, steps * STACKED),
    )


def _ours(effort: Effort, hidden: tuple[int, ...], method: SeededMethod, steps: int) -> Side:
    classifier = make_classifier(image_network(MLP(hidden=hidden)), "cpu", method, ONLINE)
    return partial(train_steps, classifier, synthetic_task(effort), steps)


def _stacked(effort: Effort, hidden: tuple[int, ...], steps: int) -> Side:
    seeds = range(STACKED)
    classifier = StackedClassifier(
        [image_network(MLP(hidden=hidden), seed) for seed in seeds],
        ONLINE,
        [PLAIN_METHOD] * STACKED,
        data_order_seeds=seeds,
    )
    dataset = synthetic_dataset(effort)
    tasks = stack([PermutedImages(dataset, num_tasks=2, seed=seed) for seed in seeds])
    return partial(train_steps, classifier, tasks[1], steps)


def _theirs(
    effort: Effort, hidden: tuple[int, ...], steps: int, *, continual: bool = False
) -> Side:
    task = synthetic_task(effort)
    inputs, labels = task.train_batch(torch.arange(task.num_train))
    loop = PublishedLoop(hidden, inputs.flatten(1), labels, classes=10, continual=continual)
    return partial(loop.steps, steps)


# ---- many runs --------------------------------------------------------------------------------------


def _runs(effort: Effort) -> Row:
    """Return the row of many runs on two cores, as `plasticity run` does them, start-up included."""
    (label, hidden, steps), runs = _widths(effort)[0], effort.size(RUNS, 2)
    dataset = synthetic_dataset(effort)
    with tempfile.TemporaryDirectory() as folder:
        write_idx(Path(folder), dataset)
        return Comparison(
            case=f"{runs} runs of an MLP of {label}, batch 1: vs the published loop, one by one",
            unit="speed",
            sides=both(
                partial(_runs_side_by_side, Path(folder), hidden, runs),
                partial(_theirs, effort, hidden, steps),
            ),
            rounds=2,
            warmup=0,
            steps=(runs * len(dataset.train_labels), steps),
            **goal_on_cores(5.0),
        ).measured(effort)


def _runs_side_by_side(folder: Path, hidden: tuple[int, ...], runs: int) -> Side:
    fresh = count()

    def run(number: int) -> None:
        config = online_config(folder, hidden)
        out = folder / f"runs_{next(fresh)}"
        jobs = [Job(out / f"seed_{seed}", replace(config, seed=seed)) for seed in range(number)]
        outcome = run_jobs([JobGroup((job,)) for job in jobs], 2, lambda _job, _value: None)
        if outcome.interrupted_by is not None:
            raise KeyboardInterrupt
        if len(outcome.finished) < number:
            raise RuntimeError(f"A run did not finish: {outcome.failed}.")

    run(1)  # it starts the server that the runs are forked from, which imports torch
    return partial(run, runs)


def online_config(folder: Path, hidden: tuple[int, ...]) -> SupervisedRunConfig:
    """Return a run of one task of the images in a folder, one example at a time."""
    stream = PermutedImagesConfig(dataset="images", data_dir=str(folder), num_tasks=1)
    tracking = replace(MNIST.tracking, probe_size=64)
    return replace(
        MNIST, stream=stream, network=MLP(hidden=hidden), agent=ONLINE, tracking=tracking
    )


def write_idx(folder: Path, dataset: ImageDataset) -> None:
    """Write images and labels as the four files of MNIST."""
    parts = {
        "train-images-idx3-ubyte": dataset.train_images,
        "train-labels-idx1-ubyte": dataset.train_labels,
        "t10k-images-idx3-ubyte": dataset.test_images,
        "t10k-labels-idx1-ubyte": dataset.test_labels,
    }
    for name, numbers in parts.items():
        (folder / name).write_bytes(_idx(numbers.to(torch.uint8)))


def _idx(numbers: Tensor) -> bytes:
    header = struct.pack(f">HBB{numbers.dim()}I", 0, 8, numbers.dim(), *numbers.shape)
    return header + numbers.numpy().tobytes()
