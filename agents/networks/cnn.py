"""Convolutional network: the syre paper's small CNN, by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from plasticity.agents.networks.base import Network, network, require_widths
from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import ConvolutionLayer, dense_layers
from plasticity.checks import require_known
from plasticity.network_spec import NetworkSpec

Downsampling = Literal["stride", "max-pool"]
"""Methods by which a convolution halves an image, by their name in a configuration."""

Padding = Literal["same", "none"]
"""Kinds of padding of a convolution's inputs, by their name in a configuration."""


@network("cnn")
@dataclass(frozen=True, kw_only=True)
class CNN(Network):
    """Convolutions and fully connected layers; by default two of each, as in the syre paper.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is out of range or a name is unknown.

    Examples:
        >>> from plasticity.network_spec import NetworkSpec
        >>> network = CNN().build(NetworkSpec(input_shape=(1, 28, 28), output_size=10))
        >>> network(torch.zeros(32, 1, 28, 28)).shape
        torch.Size([32, 10])
    """

    channels: tuple[int, ...] = (8, 16)
    """Output channels of the convolutions; each halves the image's height and width."""

    downsampling: Downsampling = "stride"
    """Method by which a convolution halves the image: a stride of 2, or a 2 x 2 max-pooling after it, which
    costs three times as much on a CPU."""

    kernel_sizes: tuple[int, ...] = (3,)
    """Side length of the kernels of each convolution; a single one is that of all."""

    padding: Padding = "same"
    """Padding of each convolution's inputs. same: zeros, so that kernels, of an odd side length, are centred
    on every pixel. none: kernels stay within the image, which becomes smaller by their side length less 1."""

    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("downsampling", self.downsampling, get_args(Downsampling))
        require_known("padding", self.padding, get_args(Padding))
        require_widths("channels", self.channels, "(8, 16)")
        require_widths("hidden", self.hidden, "(64,)")
        require_widths("kernel_sizes", self.kernel_sizes, "(3,)")
        if len(self.kernel_sizes) not in (1, len(self.channels)):
            raise ValueError(
                f"kernel_sizes has {len(self.kernel_sizes)} entries for {len(self.channels)} convolutions:"
                " give one for each, or one for all."
            )
        even = [side for side in self.kernel_sizes if side % 2 == 0]
        if self.padding == "same" and even:
            raise ValueError(
                f"kernel_sizes must be odd with the padding 'same', not {even[0]}: give an odd one, or the"
                " padding 'none'."
            )

    def build(self, spec: NetworkSpec) -> FeedforwardNetwork:
        """Return a new network for images.

        Raises:
            ValueError: if the inputs are not images, or too small for the kernels or the max-poolings.
        """
        if len(spec.input_shape) != 3:
            raise ValueError(
                f"A cnn needs images of shape (channels, height, width), not inputs of shape"
                f" {spec.input_shape}: give another architecture, such as mlp."
            )
        inputs, height, width = spec.input_shape
        pools = self.downsampling == "max-pool"
        convolutions = []
        sides = self.kernel_sizes * (len(self.channels) if len(self.kernel_sizes) == 1 else 1)
        for channels, side in zip(self.channels, sides, strict=True):
            layer = ConvolutionLayer(
                inputs,
                channels,
                side,
                (height, width),
                stride=1 if pools else 2,
                spec=spec.layer,
                padded=self.padding == "same",
            )
            convolutions.append(layer)
            inputs = spec.layer.outputs(channels)
            # Pooling drops an odd last row.
            height, width = (each // 2 for each in layer.size) if pools else layer.size
        if height < 1 or width < 1:
            raise ValueError(
                f"Images of {spec.input_shape[1]} x {spec.input_shape[2]} are too small for"
                f" {len(self.channels)} poolings: give fewer channels."
            )
        dense = dense_layers(inputs * height * width, self.hidden, spec.layer)
        output = nn.Linear(spec.layer.outputs(self.hidden[-1]), spec.output_size)
        pooled = range(1, len(convolutions) + 1) if pools else ()
        return FeedforwardNetwork(convolutions, dense, output, pooled=pooled)
