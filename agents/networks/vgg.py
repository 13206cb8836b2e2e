"""Plain deep convolutional network: blocks of 3 x 3 convolutions with a max-pooling after each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from plasticity.agents.networks.base import Network, network, require_widths
from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import (
    ConvolutionLayer,
    batch_normalization,
    dense_layers,
)
from plasticity.checks import require_bool, require_integer
from plasticity.network_spec import NetworkSpec


@network("vgg")
@dataclass(frozen=True, kw_only=True)
class VGG(Network):
    """Blocks of padded 3 x 3 convolutions, and dense layers (Simonyan & Zisserman, 2015), of a small size.

    The published networks have five blocks of 64 to 512 channels, two dense layers of 4096 units, and dropout
    between these, which is a method here.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a size is under 1, there is no block, or the activation is unknown.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    """Output channels of the convolutions of each block; the max-pooling after it halves the image's height
    and width."""

    convolutions: int = 2
    """Convolutions of a block."""

    batch_norm: bool = False
    """Whether every convolution has a batch normalization, or the normalization of a mitigation, instead of a
    bias; dense layers have none but a mitigation's."""

    hidden: tuple[int, ...] = (128,)
    """Widths of the hidden dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_widths("channels", self.channels, "(32, 64, 128)")
        require_widths("hidden", self.hidden, "(128,)")
        require_integer("convolutions", self.convolutions, minimum=1)
        require_bool("batch_norm", self.batch_norm)

    def build(self, spec: NetworkSpec) -> FeedforwardNetwork:
        """Return a new network for images.

        Raises:
            ValueError: if the inputs are not images, or too small for the max-poolings.
        """
        if len(spec.input_shape) != 3:
            raise ValueError(
                f"A vgg needs images of shape (channels, height, width), not inputs of shape"
                f" {spec.input_shape}: give another architecture, such as mlp."
            )
        inputs, height, width = spec.input_shape
        least = 2 ** len(self.channels)
        if min(height, width) < least:
            raise ValueError(
                f"Images of {height} x {width} are too small for {len(self.channels)} blocks, each with a"
                f" pooling, which need {least} x {least}: give fewer channels."
            )
        layer = spec.layer
        if self.batch_norm:
            layer = replace(layer, normalization=layer.normalization or batch_normalization)
        convolutions = []
        for channels in self.channels:
            for _ in range(self.convolutions):
                convolutions.append(
                    ConvolutionLayer(
                        inputs,
                        channels,
                        3,
                        (height, width),
                        stride=1,
                        spec=layer,
                        bias=not self.batch_norm,
                    )
                )
                inputs = layer.outputs(channels)
            height, width = height // 2, width // 2
        pooled = range(self.convolutions, len(convolutions) + 1, self.convolutions)
        dense = dense_layers(inputs * height * width, self.hidden, spec.layer)
        output = nn.Linear(spec.layer.outputs(self.hidden[-1]), spec.output_size)
        return FeedforwardNetwork(convolutions, dense, output, pooled=pooled)
