"""Cost of the trainer: against loops written by hand, and with the tracking of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.metrics.tracker import Tracker
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.rows import Effort, Row, speed_row, time_row
from plasticity.scripts.bench.steps import SIGMA, STRENGTH
from plasticity.scripts.config.benchmarks import benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks import ImageDataset, ImageTask, PermutedImages

_MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
_CONFIG = _MNIST.agent
_NETWORKS = (
    ("CNN of permuted-mnist", _MNIST.network, 1.1),
    ("MLP 784-256-10", NetworkConfig(architecture="mlp", hidden=(256,)), 1.3),
)
_NONE = RegularizerSettings()


def trainer(effort: Effort) -> list[Row]:
    """Measure the trainer's examples per second against the best hand-written loop and a DataLoader loop."""
    task = synthetic_task(effort)
    rows: list[Row] = []
    for label, network_config, loader_goal in _NETWORKS:
        network = _network(network_config)
        classifier = _classifier(network, _NONE, effort)
        for loop, goal, rounds in ((_best_loop, 0.95, 9), (_loader_loop, loader_goal, 5)):
            comparison = effort.compare(
                partial(train_task, classifier, task),
                loop(copy.deepcopy(network).to(effort.device), task, _CONFIG),
                rounds=rounds,
            )
            against = "the best loop by hand" if loop is _best_loop else "a DataLoader loop"
            rows.append(speed_row("trainer", f"{label}: vs {against}", comparison, goal))
    return rows


def tracking(effort: Effort) -> list[Row]:
    """Measure the time of the metrics at a task's end, as a share of the training on the task."""
    task = synthetic_task(effort)
    probe_size = effort.size(_MNIST.tracking.probe_size, 32)
    classifier = _classifier(
        _network(_MNIST.network),
        RegularizerSettings("syre", STRENGTH, SIGMA, anchor_seed=0),
        effort,
    )

    def measure() -> None:
        images, _ = next(iter(task.test_batches(probe_size)))
        Tracker(classifier.network, images).measure()

    comparison = effort.compare(measure, partial(train_task, classifier, task), rounds=9)
    case = "CNN of permuted-mnist: once per task vs training on it"
    return [time_row("tracking", case, comparison, 0.02)]


def synthetic_task(effort: Effort) -> ImageTask:
    """Return a permuted task of MNIST's size with random pixels: the time does not depend on them."""
    num_train, num_test = effort.size(60_000, 256), effort.size(10_000, 64)
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        return torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)

    def labels(count: int) -> Tensor:
        return torch.randint(0, 10, (count,), generator=generator)

    dataset = ImageDataset(
        "synthetic", images(num_train), labels(num_train), images(num_test), labels(num_test), 10
    )
    return PermutedImages(dataset, num_tasks=2, seed=0, device=effort.device)[1]


def train_task(classifier: Classifier, task: ImageTask) -> None:
    """Train on a whole task, and leave the classifier ready for the same one again."""
    classifier.train(task)
    # Reset the position in the task, which `finish` would do as well, but after an evaluation.
    classifier.load_state_dict({**classifier.state_dict(), "step": 0})


def _network(config: NetworkConfig) -> ImageNetwork:
    torch.manual_seed(0)
    return ImageNetwork((1, 28, 28), 10, config)


def _classifier(network: nn.Module, settings: RegularizerSettings, effort: Effort) -> Classifier:
    own = copy.deepcopy(network)
    return Classifier(own, _CONFIG, settings, data_order_seed=0, device=effort.device)


# ---- the alternatives -------------------------------------------------------------------------------


def _best_loop(network: nn.Module, task: ImageTask, config: ClassifierConfig) -> Callable[[], None]:
    """Return a loop over a permuted float copy of the data, with torch's fused SGD and no statistics.

    The copy is made in advance, untimed; a run would have to make one for every task.
    """
    images, labels = _copied(task)
    step = _update(network, config, fused=True)

    def train() -> None:
        data_order = torch.randperm(len(labels), device=labels.device)
        for indices in torch.split(data_order, config.batch_size):
            step(images.index_select(0, indices), labels.index_select(0, indices))

    return train


def _loader_loop(
    network: nn.Module, task: ImageTask, config: ClassifierConfig
) -> Callable[[], None]:
    """Return the loop of most tutorials: a shuffling loader over the same copy on the CPU, torch's plain SGD.

    It has no workers: they take another core, and for data in memory their queue costs more than it saves.
    """
    images, labels = (tensor.cpu() for tensor in _copied(task))
    loader = DataLoader(TensorDataset(images, labels), config.batch_size, shuffle=True)
    step = _update(network, config, fused=False)
    device = task.permutation.device

    def train() -> None:
        for batch_images, batch_labels in loader:
            step(batch_images.to(device), batch_labels.to(device))

    return train


def _copied(task: ImageTask) -> tuple[Tensor, Tensor]:
    return task.train_batch(torch.arange(task.num_train, device=task.permutation.device))


def _update(
    network: nn.Module, config: ClassifierConfig, *, fused: bool
) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        fused=fused or None,  # None is torch's default
    )

    def update(images: Tensor, labels: Tensor) -> None:
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return update
