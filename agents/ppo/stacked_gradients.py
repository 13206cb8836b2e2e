"""Explicit forward and backward pass of R stacked dense networks of one architecture.

The same as `plasticity.agents.ppo.dense_gradients`, with every product batched over a leading axis of R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plasticity.agents.networks.image import ACTIVATIONS
from plasticity.agents.ppo.dense_gradients import ACTIVATION_GRADIENTS


class StackedDense:
    """Layers of R stacked dense networks, which differ only in their weights.

    Args:
        parameters: Stacked parameters by their names in one network: `prefix` + "fc1.weight",
            (R, units, inputs), `prefix` + "fc1.bias", (R, units), …, "head.bias". They are read in place at
            each call, never copied.
        prefix: Prefix of the names, such as "actor.".
        activation: A name in `ACTIVATIONS`, for every layer except the head.
    """

    def __init__(self, parameters: Mapping[str, Tensor], prefix: str, activation: str) -> None:
        names = [
            name.removesuffix(".weight")
            for name in parameters
            if name.startswith(prefix) and name.endswith(".weight")
        ]
        self.weights = [parameters[f"{name}.weight"] for name in names]
        """Weights from the first layer to the head. Shapes: (R, units, inputs)."""
        self.biases = [parameters[f"{name}.bias"] for name in names]
        """Biases from the first layer to the head. Shapes: (R, units)."""
        self.activation = activation
        """Name of the activation."""

    @property
    def parameters(self) -> list[Tensor]:
        """Weight and bias of each layer, in the order of an ordinary network's `parameters()`."""
        return [
            parameter
            for layer in zip(self.weights, self.biases, strict=True)
            for parameter in layer
        ]

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs. Shape: (R, batch, inputs) to (R, batch, outputs)."""
        activation = ACTIVATIONS[self.activation]
        *hidden, head = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            inputs = activation(torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT))
        weight, bias = head
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


class StackedDenseGradients:
    """Forward and backward pass of R networks, for batches of a fixed size.

    Args:
        network: The networks. `backward` sets the `.grad` of their parameters, always to the same memory.
        batch_size: Number of rows of each network's input.
    """

    def __init__(self, network: StackedDense, batch_size: int) -> None:
        self._network = network
        self._activation = ACTIVATIONS[network.activation]
        self._activation_gradient = ACTIVATION_GRADIENTS[network.activation]

        def empty(weights: Sequence[Tensor], dim: int) -> list[Tensor]:
            return [w.new_empty(w.shape[0], batch_size, w.shape[dim]) for w in weights]

        self._sums = empty(network.weights, dim=1)
        self._gradients = empty(network.weights, dim=2)
        self._weight_gradients = [torch.zeros_like(weight) for weight in network.weights]
        self._bias_gradients = [torch.zeros_like(bias) for bias in network.biases]
        self._inputs: list[Tensor] = []

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, which the next call overwrites.

        Shape: (R, batch, inputs) to (R, batch, outputs).
        """
        self._inputs.clear()
        network, last = self._network, len(self._sums) - 1
        for index, sums in enumerate(self._sums):
            self._inputs.append(inputs)
            bias, weight = network.biases[index], network.weights[index]
            torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT, out=sums)
            inputs = sums if index == last else self._activation(sums)
        return inputs

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Set every parameter's `.grad`.

        Args:
            gradient: Gradient of each network's loss with respect to the outputs of the last `forward`.
                Shape: (R, batch, outputs).
        """
        network = self._network
        for index in reversed(range(len(self._sums))):
            weight, bias, inputs = (
                network.weights[index],
                network.biases[index],
                self._inputs[index],
            )
            weight.grad, bias.grad = self._weight_gradients[index], self._bias_gradients[index]
            torch.bmm(gradient.mT, inputs, out=weight.grad)
            torch.sum(gradient, 1, out=bias.grad)
            if index:  # the observations need no gradient
                torch.bmm(gradient, weight, out=self._gradients[index])
                gradient = self._activation_gradient(
                    self._gradients[index], self._sums[index - 1], inputs
                )
