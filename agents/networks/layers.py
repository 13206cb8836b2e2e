"""Hidden layers: a weight, then the normalization, the activations and the noise of a `LayerSpec`.

A layer applies its own activations, so that the module `fc1` both holds the weights `fc1.weight` and outputs
the features of `fc1`: one name for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.initialization import Constant, Distribution, torch_default
from plasticity.modules.hidden_work import HiddenWork
from plasticity.network_spec import LayerSpec

Activation = Literal["relu", "tanh", "gelu", "leaky-relu", "leaky-relu-0.1", "elu", "silu"]
"""Names of `ACTIVATIONS`."""


def steeper_leaky_relu(sums: Tensor) -> Tensor:
    """Return the leaky ReLU with a slope of 0.1 below 0, torch's own being 0.01."""
    return functional.leaky_relu(sums, 0.1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "leaky-relu": functional.leaky_relu,
    "leaky-relu-0.1": steeper_leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
}
"""Activations by their name in a configuration. Each is one function, by which fast paths know it."""


class DenseLayer(HiddenWork, nn.Linear):
    """Fully connected layer with its normalization, activations and noise.

    Args:
        inputs: Size of an input.
        width: Number of outputs, or of units (`LayerSpec.keep_units`).
        spec: Work of the layer on its sums.
    """

    def __init__(self, inputs: int, width: int, spec: LayerSpec) -> None:
        super().__init__(inputs, spec.units(width))
        self.set_work(spec, (self.out_features,))

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of a batch. Shape: (..., inputs) to (..., outputs)."""
        return self.features(super().forward(features), -1)

    def extra_repr(self) -> str:
        """Return the settings of the layer, its activations included."""
        return f"{super().extra_repr()}, {self.settings}"


class ConvolutionLayer(HiddenWork, nn.Conv2d):
    """Convolution with its normalization, activations and noise.

    Args:
        inputs: Number of input channels.
        width: Number of output channels, or of units (`LayerSpec.keep_units`).
        kernel_size: Side length of the kernels; odd, if the images are padded.
        size: Height and width of the input images.
        stride: Stride of the kernels.
        spec: Work of the layer on its sums.
        bias: Whether the sums have a bias; a batch normalization has one of its own.
        padded: Whether zeros around the images let kernels be centred on every pixel. Otherwise they stay
            within the images, whose outputs are smaller.

    Raises:
        ValueError: if the images are too small for a kernel.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        kernel_size: int,
        size: tuple[int, int],
        *,
        stride: int,
        spec: LayerSpec,
        bias: bool = True,
        padded: bool = True,
    ) -> None:
        units = spec.units(width)
        padding = kernel_size // 2 if padded else 0
        super().__init__(inputs, units, kernel_size, stride=stride, padding=padding, bias=bias)
        height, width = ((side + 2 * padding - kernel_size) // stride + 1 for side in size)
        if min(height, width) < 1:
            raise ValueError(
                f"The images that reach a kernel of {kernel_size} x {kernel_size} have only {size[0]} x"
                f" {size[1]} pixels: give fewer convolutions, or smaller kernels."
            )
        self.size = (height, width)
        """Height and width of the features."""
        self.set_work(spec, (units, height, width))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of a batch.

        Shape: (batch, inputs, height, width) to (batch, outputs, *size); padded, the size is
        height / stride and width / stride, rounded up.
        """
        return self.features(super().forward(images), -3)

    def extra_repr(self) -> str:
        """Return the settings of the layer, its activations included."""
        return f"{super().extra_repr()}, {self.settings}"  # type: ignore[no-untyped-call]


def batch_normalization(shape: tuple[int, ...]) -> nn.Module:
    """Return a batch normalization of images. Shape: (channels, height, width)."""
    return nn.BatchNorm2d(shape[0])


def dense_layers(inputs: int, widths: Sequence[int], spec: LayerSpec) -> list[nn.Linear]:
    """Return dense layers in a row.

    Args:
        inputs: Size of an input of the first.
        widths: Width of each.
        spec: Work of each on its sums.
    """
    layers: list[nn.Linear] = []
    for width in widths:
        if spec.dense is None:
            layers.append(DenseLayer(inputs, width, spec))
        else:
            layers.append(spec.dense(inputs, width, spec, not layers))
        inputs = spec.outputs(width)
    return layers


def default_initialization(network: nn.Module) -> dict[str, Distribution]:
    """Return the distributions that torch draws initial parameters from, by parameter name.

    A normalization has weights of 1 and biases of 0, as all of torch's have. Another layer may declare its
    own in a method `initialization`.

    Args:
        network: Network of linear layers, convolutions and normalizations.

    Raises:
        ValueError: if it has a parameter of another kind.
    """
    found: dict[str, Distribution] = {}
    for path, module in network.named_modules():
        declare = getattr(module, "initialization", None) if path else None
        declared: dict[str, Distribution] = declare() if callable(declare) else {}
        for name, _ in module.named_parameters(recurse=False):
            key = f"{path}.{name}" if path else name
            if name in declared:
                found[key] = declared[name]
            elif isinstance(module, nn.Linear | nn.Conv2d):
                found[key] = torch_default(module.weight[0].numel())
            elif name in ("weight", "bias"):
                found[key] = Constant(float(name == "weight"))
            else:
                raise ValueError(
                    f"The initial values of {key!r}, a parameter of {type(module).__name__}, are not known:"
                    " give its network a method `initialization` of its own."
                )
    return found


@dataclass(frozen=True)
class InputScale:
    """Hook that multiplies the inputs of a network by a number; it can be pickled."""

    factor: float
    """Factor."""

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the scaled inputs of one call."""
        return (inputs[0] * self.factor, *inputs[1:])


class InitializedNetwork(nn.Module):
    """Network that knows the distributions of its initial parameters, also of those that are drawn again."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, Distribution] = {}

    def extra_repr(self) -> str:
        """Return the scale of its inputs, if they are scaled, which networks to be stacked have in common."""
        hooks = self._forward_pre_hooks.values()
        return ", ".join(repr(each) for each in hooks if isinstance(each, InputScale))

    def built_with(self) -> dict[str, Distribution]:
        """Return the distributions that its layers drew from when they were made, by parameter name.

        Overridden where there are parameters that `default_initialization` does not know.
        """
        return default_initialization(self)

    def initialization(self) -> dict[str, Distribution]:
        """Return the distribution of each parameter's initial values, by name."""
        return self.built_with() | self._drawn

    @torch.no_grad()
    def draw(self, distributions: Mapping[str, Distribution], generator: torch.Generator) -> None:
        """Draw parameters from distributions, which become those of `initialization`.

        Args:
            distributions: Distributions by parameter name; other parameters stay as they are.
            generator: Generator on the network's device.
        """
        self._drawn |= distributions
        for name, parameter in self.named_parameters():
            if name in distributions:
                # Not in the layout of channels last, which orthogonal draws cannot fill.
                fresh = torch.empty_like(parameter, memory_format=torch.contiguous_format)
                distributions[name].draw_(fresh, generator)
                parameter.copy_(fresh)
