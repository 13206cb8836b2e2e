"""Networks of a policy that sees images: Nature's, IMPALA's small one, and one for the planes of MinAtar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import ConvolutionLayer, InitializedNetwork, dense_layers
from plasticity.modules.activations import identity
from plasticity.modules.hidden_work import activated
from plasticity.network_spec import LayerSpec, NetworkSpec

ImageNetwork = Literal["nature", "impala", "minatar"]
"""Names of networks for images, in a configuration."""

IMAGE_NETWORKS = ("nature", "impala", "minatar")
"""Names of networks for images."""

IMPALA_CHANNELS = (16, 32, 32)
"""Channels of the stages of IMPALA's small network."""

_CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "minatar": ((16, 3, 1),),
}
# Channels, side length of the kernels, and stride of each convolution; nothing is padded.


@dataclass(frozen=True)
class ImageFormat:
    """Form of the images that a policy sees. It is also the hook of a network that unpacks flat images."""

    shape: tuple[int, int, int]
    """Channels, height and width."""

    highest: int
    """Largest value of a pixel."""

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the images of one call, from 0 to 1, in the network's type.

        Shape: (batch, channels * height * width) to (batch, channels, height, width).
        """
        dtype = next(network.parameters()).dtype
        return (inputs[0].reshape(-1, *self.shape).to(dtype) * (1 / self.highest), *inputs[1:])


def image_network(
    name: ImageNetwork,
    images: ImageFormat,
    outputs: int,
    hidden: Sequence[int],
    layer: LayerSpec,
) -> InitializedNetwork:
    """Return a network from flat images, (batch, channels * height * width), to (batch, outputs).

    nature: convolutions of 32, 64 and 64 channels with kernels of 8, 4 and 3 pixels and strides of 4, 2 and 1
    (Mnih et al., 2015). impala: stages of 16, 32 and 32 channels, each a convolution, a max-pooling and two
    residual blocks (Espeholt et al., 2018). minatar: one convolution of 16 channels with kernels of 3 pixels
    (Young & Tian, 2019). Each is followed by dense layers.

    Args:
        name: One of `IMAGE_NETWORKS`.
        images: Form of the images.
        outputs: Size of an output.
        hidden: Widths of the dense layers after the convolutions.
        layer: Work of every hidden layer.

    Raises:
        ValueError: if the images are too small for the convolutions.
    """
    spec = NetworkSpec(input_shape=images.shape, output_size=outputs, layer=layer)
    network: InitializedNetwork
    if name == "impala":
        network = ImpalaNetwork(spec, hidden)
    else:
        inputs, height, width = images.shape
        _require_size(name, images.shape)
        convolutions = []
        for channels, side, stride in _CONVOLUTIONS[name]:
            convolutions.append(
                ConvolutionLayer(
                    inputs, channels, side, (height, width), stride=stride, spec=layer, padded=False
                )
            )
            inputs, (height, width) = layer.outputs(channels), convolutions[-1].size
        dense = dense_layers(inputs * height * width, hidden, layer)
        output = nn.Linear(layer.outputs(hidden[-1]), outputs)
        network = FeedforwardNetwork(convolutions, dense, output)
    network.register_forward_pre_hook(images)
    return network


def _require_size(name: ImageNetwork, shape: tuple[int, int, int]) -> None:
    """Raise an error if images are smaller than what the convolutions reduce to one pixel."""
    least = 1
    for _, side, stride in reversed(_CONVOLUTIONS[name]):
        least = (least - 1) * stride + side
    if min(shape[1:]) < least:
        raise ValueError(
            f"image_network={name!r} needs images of at least {least} x {least} pixels, and these have"
            f" {shape[1]} x {shape[2]}: choose another, such as impala."
        )


class ImpalaNetwork(InitializedNetwork):
    """Stages `stage1`, `stage2`, …, dense layers `fc1`, …, the last one linear.

    Args:
        spec: Shape of the images, number of outputs, and work of every hidden layer.
        hidden: Widths of the dense layers.
    """

    def __init__(self, spec: NetworkSpec, hidden: Sequence[int]) -> None:
        super().__init__()
        layer = spec.layer
        inputs, height, width = spec.input_shape
        names: list[str] = []
        for number, channels in enumerate(IMPALA_CHANNELS, start=1):
            stage = ImpalaStage(inputs, channels, (height, width), layer)
            self.add_module(f"stage{number}", stage)
            names += [f"stage{number}.block{block}.conv1" for block in (1, 2)]
            inputs, (height, width) = layer.units(channels), stage.size
        self._stages = [f"stage{number}" for number in range(1, len(IMPALA_CHANNELS) + 1)]
        self.activations = layer.activations
        dense = dense_layers(inputs * len(layer.activations) * height * width, hidden, layer)
        output = nn.Linear(layer.outputs(hidden[-1]), spec.output_size)
        for number, each in enumerate((*dense, output), start=1):
            self.add_module(f"fc{number}", each)
        self._dense = [f"fc{number}" for number in range(1, len(dense) + 2)]
        self.hidden_layers = (*names, *self._dense[:-1])
        """Names of the layers measured by a tracker, from input to output: those with an activation."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs. Shape: (batch, channels, height, width) to (batch, outputs)."""
        features = images
        for name in self._stages:
            features = self.get_submodule(name)(features)
        features = activated(features, self.activations, -3).flatten(1)
        for name in self._dense:
            features = self.get_submodule(name)(features)
        return features


class ImpalaStage(nn.Module):
    """Convolution `conv`, a 3 x 3 max-pooling that halves the image, and residual blocks `block1`, `block2`.

    Args:
        inputs: Number of input channels.
        width: Number of output channels.
        size: Height and width of the input images.
        spec: Work of every hidden layer.
    """

    def __init__(self, inputs: int, width: int, size: tuple[int, int], spec: LayerSpec) -> None:
        super().__init__()
        plain = LayerSpec(activations=(identity,), normalization=spec.normalization)
        units = spec.units(width)
        self.size = (-(-size[0] // 2), -(-size[1] // 2))
        """Height and width of the outputs."""
        self.conv = ConvolutionLayer(inputs, units, 3, size, stride=1, spec=plain)
        self.block1 = ImpalaBlock(width, self.size, spec, plain)
        self.block2 = ImpalaBlock(width, self.size, spec, plain)

    def forward(self, images: Tensor) -> Tensor:
        """Return the sums of the last block. Shape: (batch, inputs, …) to (batch, units, *size)."""
        pooled = functional.max_pool2d(self.conv(images), 3, stride=2, padding=1)
        return self.block2(self.block1(pooled))  # type: ignore[no-any-return]


class ImpalaBlock(nn.Module):
    """Two 3 x 3 convolutions, each after an activation, whose outputs are added to the input.

    Args:
        width: Number of channels.
        size: Height and width of the images.
        spec: Work of every hidden layer.
        plain: The same without activations.
    """

    def __init__(
        self, width: int, size: tuple[int, int], spec: LayerSpec, plain: LayerSpec
    ) -> None:
        super().__init__()
        self.activations = spec.activations
        channels = spec.outputs(width)
        self.conv1 = ConvolutionLayer(channels, width, 3, size, stride=1, spec=spec)
        self.conv2 = ConvolutionLayer(channels, spec.units(width), 3, size, stride=1, spec=plain)

    def forward(self, sums: Tensor) -> Tensor:
        """Return the sums of the block. Shape: (batch, units, height, width), as the input."""
        features = self.conv1(activated(sums, self.activations, -3))
        return sums + self.conv2(features)  # type: ignore[no-any-return]
