"""Networks of the image benchmarks: the paper's small CNN, and a plain MLP.

Each layer applies its own activation, so that the module `fc1` both holds the weights `fc1.weight` and
outputs the features of `fc1` after the activation: one name for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.checks import require_integer, require_known

Architecture = Literal["cnn", "mlp"]
"""Kinds of networks by their name in a configuration."""

Downsampling = Literal["stride", "max-pool"]
"""Methods by which a convolution halves an image, by their name in a configuration."""

Activation = Literal["relu", "tanh", "gelu", "leaky-relu", "elu", "silu"]
"""Names of `ACTIVATIONS`."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "leaky-relu": functional.leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
}
"""Activations by their name in a configuration."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a classifier's network.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is under 1 or a name is unknown.
    """

    architecture: Architecture = "cnn"
    """Kind of network. cnn: two convolution and two fully connected layers, as in the syre paper.
    mlp: dense layers only."""

    channels: tuple[int, ...] = (8, 16)
    """Output channels of the convolutions; each halves the image's height and width."""

    downsampling: Downsampling = "stride"
    """Method by which a convolution halves the image: a stride of 2, or a 2 x 2 max-pooling after it, which
    costs three times as much on a CPU."""

    kernel_size: int = 3
    """Side length of the convolution kernels; odd, so that padding preserves the image size."""

    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden dense layers."""

    activation: Activation = "relu"
    """Activation applied after every layer except the last."""

    def __post_init__(self) -> None:
        require_known("architecture", self.architecture, get_args(Architecture))
        require_known("downsampling", self.downsampling, get_args(Downsampling))
        require_known("activation", self.activation, ACTIVATIONS)
        for name in ("channels", "hidden"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(f"{name} must be a tuple of widths, not {getattr(self, name)!r}.")
        for width in (*self.channels, *self.hidden):
            require_integer("a layer's width", width, minimum=1)
        require_integer("kernel_size", self.kernel_size, minimum=1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}.")
        if self.architecture == "cnn" and not self.channels:
            raise ValueError("A cnn needs at least one number of channels: channels=(8, 16).")
        if not self.hidden:
            raise ValueError("A network needs at least one hidden dense layer: hidden=(64,).")


class ConvolutionLayer(nn.Conv2d):
    """Padded convolution followed by its activation."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel_size: int,
        *,
        stride: int,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(inputs, channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of a batch.

        Shape: (batch, inputs, height, width) to (batch, channels, height / stride, …).
        """
        return self.activation(super().forward(images))


class DenseLayer(nn.Linear):
    """Fully connected layer followed by its activation."""

    def __init__(self, inputs: int, units: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inputs, units)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of a batch. Shape: (..., inputs) to (..., units)."""
        return self.activation(super().forward(features))


class ImageNetwork(nn.Module):
    """Image classifier: convolutions `conv1`, `conv2`, … (none for an MLP) and dense layers `fc1`, `fc2`, ….

    The last dense layer outputs the logits.

    Args:
        image_shape: Shape of one image: (channels, height, width).
        num_classes: Number of logits.
        config: Widths and activation.

    Raises:
        ValueError: if the images are too small for the max-pooling layers.
    """

    def __init__(
        self, image_shape: tuple[int, ...], num_classes: int, config: NetworkConfig
    ) -> None:
        super().__init__()
        require_integer("num_classes", num_classes, minimum=2)
        inputs, height, width = image_shape
        activation = ACTIVATIONS[config.activation]
        channels = config.channels if config.architecture == "cnn" else ()
        self._pools = config.downsampling == "max-pool"
        for count, outputs in enumerate(channels, start=1):
            layer = ConvolutionLayer(
                inputs,
                outputs,
                config.kernel_size,
                stride=1 if self._pools else 2,
                activation=activation,
            )
            self.add_module(f"conv{count}", layer)
            inputs = outputs
            # Pooling drops an odd last row; a stride keeps it.
            height, width = ((side + (not self._pools)) // 2 for side in (height, width))
        if height < 1 or width < 1:
            raise ValueError(
                f"Images of {image_shape[1]} x {image_shape[2]} are too small for {len(channels)}"
                " poolings: give fewer channels."
            )
        features = inputs * height * width
        for count, units in enumerate(config.hidden, start=1):
            self.add_module(f"fc{count}", DenseLayer(features, units, activation))
            features = units
        self.add_module(f"fc{len(config.hidden) + 1}", nn.Linear(features, num_classes))
        layers = [name for name, _ in self.named_children()]
        self.hidden_layers = tuple(layers[:-1])
        """Names of the layers before the logits, from input to output: those measured by a tracker."""
        self._convolutions = tuple(layers[: len(channels)])
        self._dense = tuple(layers[len(channels) :])
        # Channels last: 1.3 to 1.9 times as fast on a CPU, and the layout preferred by CUDA convolutions.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits. Shape: (batch, channels, height, width) to (batch, num_classes)."""
        features: Any = images
        for name in self._convolutions:
            features = self.get_submodule(name)(features)
            if self._pools:
                features = functional.max_pool2d(features, 2)
        features = features.flatten(1)
        for name in self._dense:
            features = self.get_submodule(name)(features)
        return features  # type: ignore[no-any-return]
