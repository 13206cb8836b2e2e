"""Convolutional network: the syre paper's small CNN, by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from plasticity.agents.networks.base import Network, network, require_widths
from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import ConvolutionLayer, dense_layers
from plasticity.checks import require_integer, require_known
from plasticity.network_spec import NetworkSpec

Downsampling = Literal["stride", "max-pool"]
"""Methods by which a convolution halves an image, by their name in a configuration."""


@network("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(Network):
    """Convolutions and fully connected layers; by default two of each, as in the syre paper.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is out of range or a name is unknown.
    """

    channels: tuple[int, ...] = (8, 16)
    """Output channels of the convolutions; each halves the image's height and width."""

    downsampling: Downsampling = "stride"
    """Method by which a convolution halves the image: a stride of 2, or a 2 x 2 max-pooling after it, which
    costs three times as much on a CPU."""

    kernel_size: int = 3
    """Side length of the convolution kernels; odd, so that padding preserves the image size."""

    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("downsampling", self.downsampling, get_args(Downsampling))
        require_widths("channels", self.channels, "(8, 16)")
        require_widths("hidden", self.hidden, "(64,)")
        require_integer("kernel_size", self.kernel_size, minimum=1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}.")

    def build(self, spec: NetworkSpec) -> FeedforwardNetwork:
        """Return a new network for images.

        Raises:
            ValueError: if the inputs are not images, or too small for the max-pooling layers.
        """
        if len(spec.input_shape) != 3:
            raise ValueError(
                f"A cnn needs images of shape (channels, height, width), not inputs of shape"
                f" {spec.input_shape}: give another architecture, such as mlp."
            )
        inputs, height, width = spec.input_shape
        pools = self.downsampling == "max-pool"
        convolutions = []
        for channels in self.channels:
            convolutions.append(
                ConvolutionLayer(
                    inputs,
                    channels,
                    self.kernel_size,
                    (height, width),
                    stride=1 if pools else 2,
                    spec=spec.layer,
                )
            )
            inputs = spec.layer.outputs(channels)
            # Pooling drops an odd last row; a stride keeps it.
            height, width = ((side + (not pools)) // 2 for side in (height, width))
        if height < 1 or width < 1:
            raise ValueError(
                f"Images of {spec.input_shape[1]} x {spec.input_shape[2]} are too small for"
                f" {len(self.channels)} poolings: give fewer channels."
            )
        dense = dense_layers(inputs * height * width, self.hidden, spec.layer)
        output = nn.Linear(spec.layer.outputs(self.hidden[-1]), spec.output_size)
        return FeedforwardNetwork(convolutions, dense, output, pools=pools)
