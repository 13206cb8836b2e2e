"""Vision transformer, with matrices of their own for queries and keys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.agents.networks.base import Network, network
from plasticity.agents.networks.layers import (
    Activation,
    DenseLayer,
    InitializedNetwork,
    default_initialization,
)
from plasticity.checks import require_integer
from plasticity.initialization import Distribution, Normal
from plasticity.network_spec import LayerSpec, NetworkSpec

TOKEN_DEVIATION = 0.02
"""Standard deviation of the initial class token and positions, as in the reference implementation."""


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) with a linear layer each for queries, keys and values.

    Args:
        width: Size of a token.
        heads: Number of heads, a divisor of the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let each token attend to all. Shape: (batch, tokens, width), of both."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer in (self.query, self.key, self.value)
        )
        # Written out: torch's fused attention is as fast at these sizes, and cannot be stacked on a CPU.
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        mixed = scores.softmax(-1) @ value
        outputs: Tensor = self.output(mixed.transpose(-3, -2).flatten(-2))
        return outputs


class Block(nn.Module):
    """Attention, then a hidden layer; each of normalized tokens, and added to them.

    Args:
        width: Size of a token.
        heads: Number of heads.
        hidden: Width of the hidden layer.
        spec: Work of the hidden layer on its sums.
    """

    def __init__(self, width: int, heads: int, hidden: int, spec: LayerSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = DenseLayer(width, hidden, spec)
        self.fc2 = nn.Linear(spec.outputs(hidden), width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens with what was added to them. Shape: (batch, tokens, width), of both."""
        tokens = tokens + self.attention(self.norm1(tokens))
        outputs: Tensor = tokens + self.fc2(self.fc1(self.norm2(tokens)))
        return outputs


class VisionTransformer(InitializedNetwork):
    """Blocks `block1`, `block2`, … on a class token and the patches of an image, and a linear `head`.

    Args:
        settings: Sizes of the network.
        spec: Specification of the rest.
    """

    def __init__(self, settings: ViT, spec: NetworkSpec) -> None:
        super().__init__()
        channels, *sides = spec.input_shape
        count = sides[0] // settings.patch_size * (sides[1] // settings.patch_size)
        width, patch = settings.width, settings.patch_size
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(TOKEN_DEVIATION * torch.randn(1, 1, width))
        self.positions = nn.Parameter(TOKEN_DEVIATION * torch.randn(1, 1 + count, width))
        hidden = settings.hidden_factor * width
        self.blocks = tuple(f"block{number}" for number in range(1, settings.depth + 1))
        """Names of the blocks."""
        for name in self.blocks:
            self.add_module(name, Block(width, settings.heads, hidden, spec.layer))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.output_size)
        self.hidden_layers = tuple(f"{name}.fc1" for name in self.blocks)
        """Names of the hidden layers, from input to output: those measured by a tracker."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs. Shape: (batch, channels, height, width) to (batch, output_size)."""
        patches = self.patches(images).flatten(-2).transpose(-2, -1)
        first = self.class_token.expand(len(patches), -1, -1)
        tokens = torch.cat([first, patches], 1) + self.positions
        for name in self.blocks:
            tokens = self.get_submodule(name)(tokens)
        outputs: Tensor = self.head(self.norm(tokens[:, 0]))
        return outputs

    def built_with(self) -> dict[str, Distribution]:
        """Return the distributions that its layers, and its tokens, were drawn from, by parameter name."""
        found: dict[str, Distribution] = {
            name: Normal(TOKEN_DEVIATION) for name in ("class_token", "positions")
        }
        for part, module in self.named_children():
            found |= {f"{part}.{n}": each for n, each in default_initialization(module).items()}
        return found


@network("vit")
@dataclass(frozen=True, kw_only=True)
class ViT(Network):
    """Vision transformer (Dosovitskiy et al., 2021), with the normalizations before the layers.

    Raises:
        TypeError: if a size is not an integer, or the activation not a text.
        ValueError: if a size is out of range, the width no multiple of the heads, or the activation unknown.
    """

    activation: Activation = "gelu"
    """Activation of the hidden layers, unless a mitigation replaces it."""

    patch_size: int = 4
    """Height and width of the patches, which divide those of the images."""

    depth: int = 6
    """Number of blocks."""

    width: int = 512
    """Size of a token, a multiple of the number of heads."""

    heads: int = 8
    """Number of heads of each attention."""

    hidden_factor: int = 4
    """Width of the hidden layers as a multiple of the size of a token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_size", "depth", "width", "heads", "hidden_factor"):
            require_integer(name, getattr(self, name), minimum=1)
        if self.width % self.heads:
            raise ValueError(
                f"A width of {self.width} cannot be split into {self.heads} heads: give a multiple of"
                f" {self.heads}."
            )

    def build(self, spec: NetworkSpec) -> VisionTransformer:
        """Return a new network for images.

        Raises:
            ValueError: if the inputs are not images, or cannot be cut into patches.
        """
        if len(spec.input_shape) != 3:
            raise ValueError(
                f"A vit needs images of shape (channels, height, width), not inputs of shape"
                f" {spec.input_shape}: give another architecture, such as mlp."
            )
        height, width = spec.input_shape[1:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"Images of {height} x {width} cannot be cut into patches of {self.patch_size} x"
                f" {self.patch_size}: give a patch_size that divides both."
            )
        return VisionTransformer(self, spec)
