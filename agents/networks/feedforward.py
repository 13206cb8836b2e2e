"""Feedforward classifier: convolutions and dense layers in a row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.networks.layers import ConvolutionLayer, InitializedNetwork


class FeedforwardNetwork(InitializedNetwork):
    """Convolutions `conv1`, `conv2`, … (or none), then dense layers `fc1`, `fc2`, …, the last one linear.

    Args:
        convolutions: Convolutions from input to output.
        dense: Hidden dense layers, from input to output.
        output: Layer of the outputs, without an activation.
        pooled: Numbers of the convolutions, counted from 1, that a 2 x 2 max-pooling follows.
    """

    def __init__(
        self,
        convolutions: Sequence[ConvolutionLayer],
        dense: Sequence[nn.Linear],
        output: nn.Linear,
        *,
        pooled: Collection[int] = (),
    ) -> None:
        super().__init__()
        for count, convolution in enumerate(convolutions, start=1):
            self.add_module(f"conv{count}", convolution)
        for count, layer in enumerate((*dense, output), start=1):
            self.add_module(f"fc{count}", layer)
        layers = [name for name, _ in self.named_children()]
        self.hidden_layers = tuple(layers[:-1])
        """Names of the layers before the outputs, from input to output: those measured by a tracker."""
        self._convolutions = tuple(layers[: len(convolutions)])
        self._dense = tuple(layers[len(convolutions) :])
        self._pooled = frozenset(f"conv{number}" for number in pooled)
        # Channels last: 1.3 to 1.9 times as fast on a CPU, and the layout preferred by CUDA convolutions.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs. Shape: (batch, *input_shape) to (batch, output_size)."""
        features: Any = inputs
        for name in self._convolutions:
            features = self.get_submodule(name)(features)
            if name in self._pooled:
                features = functional.max_pool2d(features, 2)
        features = features.flatten(1)
        for name in self._dense:
            features = self.get_submodule(name)(features)
        return features  # type: ignore[no-any-return]
