"""Images as the problem of a figure: settings of the data, batches, and an experiment of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.checks import require_integer, require_name, require_number
from plasticity.scripts.reproduce.config import FigureStream
from plasticity.scripts.reproduce.network_experiment import NetworkExperiment, NetworkFigureConfig
from plasticity.tasks.datasets.images import load_dataset


@dataclass(frozen=True, kw_only=True)
class ImageData(FigureStream):
    """Images of one dataset, or a part of them, as inputs of a network.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    dataset: str = "mnist"
    """Images: mnist, fashion-mnist, kmnist, cifar10, cifar100, digits, or images (any folder of files like
    MNIST's)."""

    data_dir: str | None = None
    """Folder with the files of the data. None: $PLASTICITY_DATA/NAME, the cache, then a download."""

    num_train: int | None = None
    """Training examples: the first so many of the dataset's. None: all."""

    num_test: int | None = None
    """Test examples: the first so many of the dataset's. None: all."""

    pool: int = 1
    """Side of the squares of pixels that are averaged into one."""

    input_scale: float = 1.0
    """Factor of the pixels, which are from 0 to 1."""

    batch_size: int = 128
    """Examples of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("dataset", self.dataset)
        for name in ("num_train", "num_test", "pool", "batch_size"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), minimum=1)
        require_number("input_scale", self.input_scale, minimum=0.0)

    def load(self, device: torch.device | str = "cpu") -> Images:
        """Return the examples on a device, as `load_dataset` reads or downloads them.

        Raises:
            ValueError: if the dataset is unknown, its files are missing or not as expected, or it has fewer
                examples than a setting says.
            DownloadError: if no mirror delivers.
        """
        data = load_dataset(self.dataset, self.data_dir)
        splits = (
            ("num_train", self.num_train, data.train_images, data.train_labels),
            ("num_test", self.num_test, data.test_images, data.test_labels),
        )
        tensors = []
        for setting, wanted, images, labels in splits:
            if wanted is not None and wanted > len(images):
                raise ValueError(
                    f"{setting}={wanted} is more than the {len(images)} examples of {self.dataset}."
                )
            inputs = data.scaled(images[:wanted]).view(-1, *data.input_shape)
            if self.pool > 1:
                inputs = functional.avg_pool2d(inputs, self.pool)
            tensors += [(inputs * self.input_scale).to(device), labels[:wanted].to(device)]
        if self.batch_size > len(tensors[0]):
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {len(tensors[0])} training examples."
            )
        train_inputs, train_labels, test_inputs, test_labels = tensors
        return Images(train_inputs, train_labels, test_inputs, test_labels, data.num_classes)


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, as a network takes them."""

    train_inputs: Tensor
    """Training images, float32. Shape: (training examples, channels, height, width)."""

    train_labels: Tensor
    """Their classes, int64. Shape: (training examples,)."""

    test_inputs: Tensor
    """Test images, float32. Shape: (test examples, channels, height, width)."""

    test_labels: Tensor
    """Their classes, int64. Shape: (test examples,)."""

    num_classes: int
    """Number of classes."""


class Epochs:
    """Batches of training examples, each a pure function of the step: an epoch has each example at most once.

    The examples that fill no batch at the end of an epoch are left out of it.

    Args:
        generator: Function from a name to a generator (`NetworkExperiment.generator`).
        num_train: Number of training examples.
        batch_size: Examples in a batch, at most `num_train`.
    """

    def __init__(
        self, generator: Callable[[str], torch.Generator], num_train: int, batch_size: int
    ) -> None:
        self._generator = generator
        self._num_train = num_train
        self._batch_size = batch_size
        self._epoch = -1
        self._order = torch.empty(0)

    def rows(self, step: int) -> Tensor:
        """Return the indices of the examples of a step, on the generator's device. Shape: (batch_size,)."""
        epoch, batch = divmod(step, self._num_train // self._batch_size)
        if epoch != self._epoch:
            draws = self._generator(f"epoch/{epoch}")
            self._order = torch.randperm(self._num_train, generator=draws, device=draws.device)
            self._epoch = epoch
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]


@dataclass(frozen=True, kw_only=True)
class ImageFigureConfig(NetworkFigureConfig):
    """Configuration of one run of a figure that trains a network on images."""

    stream: ImageData = field(default_factory=ImageData)
    """Images that the network learns."""


class ImageExperiment(NetworkExperiment):
    """Run of a figure that trains one classifier of images; a subclass states the network and the metrics."""

    data: Images
    """Images, on the run's device: there before the network is made."""

    def begin(self) -> None:
        """Load the images, then make the network and its optimizer."""
        stream = self.config.stream
        self.data = stream.load(self.config.device)
        self.epochs = Epochs(self.generator, len(self.data.train_inputs), stream.batch_size)
        super().begin()

    def training_inputs(self, rows: Tensor) -> Tensor:
        """Return the inputs of a step from its training images; overridden where they are augmented."""
        return self.data.train_inputs[rows]

    def loss(self) -> Tensor:
        """Return the mean cross-entropy of the step's batch."""
        rows = self.epochs.rows(self.steps)
        return functional.cross_entropy(
            self.network(self.training_inputs(rows)), self.data.train_labels[rows]
        )

    @torch.no_grad()
    def accuracy(self, inputs: Tensor, labels: Tensor) -> float:
        """Return the share of images whose class has the largest output, from 0 to 1.

        Args:
            inputs: Images. Shape: (examples, channels, height, width).
            labels: Their classes. Shape: (examples,).
        """
        return share_correct(self.network(inputs), labels)

    @staticmethod
    def require_runnable(configs: Sequence[Any]) -> None:
        """Raise an error if a run's images cannot be loaded; download them."""
        load = lru_cache(maxsize=1)(lambda stream: stream.load())  # arms share their images
        for config in configs:
            load(config.stream)

    @staticmethod
    def modules(config: Any) -> Sequence[str]:
        """Return the modules that a run imports late."""
        return ("sklearn.datasets",) if config.stream.dataset == "digits" else ()


def share_correct(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of examples whose class has the largest output, from 0 to 1.

    Args:
        outputs: Outputs of a classifier. Shape: (examples, classes).
        labels: Classes. Shape: (examples,).
    """
    return (outputs.argmax(dim=1) == labels).float().mean().item()
