"""Residual network for small images: ResNet-18 in its form for CIFAR, by default."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from plasticity.agents.networks.base import Network, network, require_widths
from plasticity.agents.networks.layers import (
    ConvolutionLayer,
    InitializedNetwork,
    batch_normalization,
)
from plasticity.checks import require_bool, require_integer
from plasticity.modules.activations import identity
from plasticity.modules.hidden_work import activated
from plasticity.network_spec import LayerSpec, NetworkSpec


@network("resnet")
@dataclass(frozen=True, kw_only=True)
class ResNet(Network):
    """Residual network of basic blocks (He et al., 2016); by default, ResNet-18 as it is used on CIFAR.

    The first convolution is 3 x 3 and nothing is pooled after it, so that the first stage sees images of full
    size. Every convolution has a batch normalization, or the normalization of a mitigation.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is under 1, there is no stage, or the activation is unknown.
    """

    width: int = 64
    """Channels of the first stage; each further stage has twice as many, on images of half the size."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of two convolutions in each stage."""

    biases: bool = False
    """Whether convolutions have biases, besides those of the normalizations (Dohare et al., 2024)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("width", self.width, minimum=1)
        require_bool("biases", self.biases)
        require_widths("blocks", self.blocks, "(2, 2, 2, 2)")

    def build(self, spec: NetworkSpec) -> ResidualNetwork:
        """Return a new network for images of any size.

        Raises:
            ValueError: if the inputs are not images, or the activations cannot share the width.
        """
        if len(spec.input_shape) != 3:
            raise ValueError(
                f"A resnet needs images of shape (channels, height, width), not inputs of shape"
                f" {spec.input_shape}: give another architecture, such as mlp."
            )
        layer = replace(spec.layer, normalization=spec.layer.normalization or batch_normalization)
        inputs, *size = spec.input_shape
        stem = ConvolutionLayer(
            inputs, self.width, 3, (size[0], size[1]), stride=1, spec=layer, bias=self.biases
        )
        inputs, stages = layer.outputs(self.width), []
        for stage, count in enumerate(self.blocks):
            width, blocks = self.width * 2**stage, []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(
                    BasicBlock(
                        inputs,
                        width,
                        (size[0], size[1]),
                        stride=stride,
                        spec=layer,
                        bias=self.biases,
                    )
                )
                inputs, size = layer.outputs(width), [-(-side // stride) for side in size]
            stages.append(blocks)
        return ResidualNetwork(stem, stages, nn.Linear(inputs, spec.output_size))


class ResidualNetwork(InitializedNetwork):
    """First convolution `stem`, blocks `stage1.0`, `stage1.1`, …, the mean over the image, and `output`.

    Args:
        stem: First convolution.
        stages: Blocks of each stage.
        output: Layer of the outputs.
    """

    def __init__(
        self, stem: ConvolutionLayer, stages: list[list[BasicBlock]], output: nn.Linear
    ) -> None:
        super().__init__()
        self.stem = stem
        names = ["stem"]
        for count, blocks in enumerate(stages, start=1):
            self.add_module(f"stage{count}", nn.Sequential(*blocks))
            names += [f"stage{count}.{number}" for number in range(len(blocks))]
        self.output: nn.Module = output
        self.hidden_layers = tuple(names)
        """Names of the layers before the outputs, from input to output: those measured by a tracker."""
        self._stages = tuple(f"stage{count}" for count in range(1, len(stages) + 1))
        # Channels last: faster on a CPU, and the layout preferred by CUDA convolutions.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        """Return the features before the outputs.

        Shape: (batch, channels, height, width) to (batch, units).
        """
        maps = self.stem(images)
        for name in self._stages:
            maps = self.get_submodule(name)(maps)
        return maps.mean((-2, -1))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs. Shape: (batch, channels, height, width) to (batch, output_size)."""
        return self.output(self.features(images))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; the activations follow their sum.

    The shortcut is the identity where the shapes allow it, else a 1 x 1 convolution. Noise of the spec
    acts within the first convolution, a gate in both places.

    Args:
        inputs: Number of input channels.
        width: Number of output channels, or of units (`LayerSpec.keep_units`).
        size: Height and width of the input images.
        stride: Stride of the first convolution and of the shortcut.
        spec: Work of a layer on its sums, a normalization included.
        bias: Whether the convolutions have biases.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        size: tuple[int, int],
        *,
        stride: int,
        spec: LayerSpec,
        bias: bool = False,
    ) -> None:
        super().__init__()
        units = spec.units(width)
        self.activations = spec.activations
        plain = LayerSpec(activations=(identity,), normalization=spec.normalization)
        halved = (-(-size[0] // stride), -(-size[1] // stride))
        self.gate = spec.gate and spec.gate((units, *halved))
        self.conv1 = ConvolutionLayer(inputs, width, 3, size, stride=stride, spec=spec, bias=bias)
        self.conv2 = ConvolutionLayer(
            spec.outputs(width), units, 3, halved, stride=1, spec=plain, bias=bias
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == units
            else ConvolutionLayer(inputs, units, 1, size, stride=stride, spec=plain, bias=bias)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of a batch.

        Shape: (batch, inputs, height, width) to (batch, outputs, height / stride, …), rounded up.
        """
        sums = self.conv2(self.conv1(images)) + self.shortcut(images)
        factors = None if self.gate is None else self.gate(sums)
        return activated(sums, self.activations, -3, factors)
