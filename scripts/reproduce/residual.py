"""ResNets on images, as several figures train them: SGD with momentum along a half cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.networks.resnet import ResidualNetwork, ResNet
from plasticity.checks import require_bool, require_integer
from plasticity.scripts.reproduce.images import (
    ImageData,
    ImageExperiment,
    ImageFigureConfig,
    share_correct,
)
from plasticity.scripts.reproduce.network_experiment import NetworkTraining
from plasticity.tasks.datasets.augmentations import random_crop, random_flip

EVALUATED_AT_ONCE = 1000
"""Images of one evaluation pass, which bounds its memory."""


@dataclass(frozen=True, kw_only=True)
class ColourImages(ImageData):
    """Images of CIFAR-10, or a part of them.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    dataset: str = "cifar10"
    """Images: cifar10, cifar100, or any others."""

    augment: bool = False
    """Whether training images are shifted by up to 4 pixels and flipped, anew in every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_bool("augment", self.augment)


@dataclass(frozen=True, kw_only=True)
class ResNetTraining(NetworkTraining):
    """Settings of a ResNet-18 for CIFAR and of its training.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range.
    """

    optimizer: str = "sgd"
    """Name of the optimizer: sgd, adam or adamw."""

    learning_rate: float = 0.1
    """Learning rate at the beginning."""

    momentum: float = 0.9
    """Momentum of sgd."""

    anneal_steps: int = 600
    """Steps over which the learning rate falls to 0, along half a cosine."""

    width: int = 8
    """Channels of the first stage; 64 in the published network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("anneal_steps", self.anneal_steps, minimum=1)
        require_integer("width", self.width, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ResNetFigureConfig(ImageFigureConfig):
    """Configuration of one run of a figure that trains a ResNet-18."""

    stream: ColourImages = field(default_factory=ColourImages)
    """Images that the network learns."""

    agent: ResNetTraining = field(default_factory=ResNetTraining)
    """Settings of the training."""


class ResNetExperiment(ImageExperiment):
    """Run of a figure that trains a ResNet-18 to classify; a subclass states the metrics."""

    network: ResidualNetwork

    def make_network(self) -> ResidualNetwork:
        """Return a ResNet-18 in its form for CIFAR."""
        shape = tuple(self.data.train_inputs.shape[1:])
        settings = ResNet(width=self.config.agent.width)
        return cast(ResidualNetwork, self.build(settings, shape, self.data.num_classes))

    def step(self) -> None:
        """Do an optimizer step with the learning rate of its place in the schedule."""
        training = self.config.agent
        share = min(self.steps / training.anneal_steps, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate * (1 + math.cos(math.pi * share)) / 2
        super().step()

    def training_inputs(self, rows: Tensor) -> Tensor:
        """Return training images, shifted and flipped anew in every step if the settings say so."""
        images = super().training_inputs(rows)
        if not self.config.stream.augment:
            return images
        draws = self.generator(f"augmentation/{self.steps}")
        return random_flip(random_crop(images, 4, draws), draws)

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """Return the inputs of the output layer for any number of images. Shape: (examples, units)."""
        parts = torch.split(inputs, EVALUATED_AT_ONCE)
        return torch.cat([self.network.features(part) for part in parts])

    def fit(self) -> dict[str, float | None]:
        """Return the cross-entropy on the training images, and the accuracy on these and on the others."""
        inputs = (self.data.train_inputs, self.data.test_inputs)
        train, test = (self.network.output(self.features(each)) for each in inputs)
        return {
            "loss": functional.cross_entropy(train, self.data.train_labels).item(),
            "train_accuracy": share_correct(train, self.data.train_labels),
            "test_accuracy": share_correct(test, self.data.test_labels),
        }
