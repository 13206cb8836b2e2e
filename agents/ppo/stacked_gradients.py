"""Forward and backward of R dense networks of one architecture at once, written out.

As `dense_gradients`, with every product over a leading axis of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plasticity.agents.networks.image import ACTIVATIONS
from plasticity.agents.ppo.dense_gradients import ACTIVATION_GRADIENTS


class StackedDense:
    """The layers of R dense networks that differ in their weights alone.

    Args:
        parameters: Stacked, by the names that they have in one network: `prefix` + "fc1.weight",
            (replicas, units, inputs), `prefix` + "fc1.bias", (replicas, units), …, "head.bias". Read
            where they are at each call, never copied.
        prefix: Of the names: "actor.", say.
        activation: A name in `ACTIVATIONS`, of every layer but the head.
    """

    def __init__(self, parameters: Mapping[str, Tensor], prefix: str, activation: str) -> None:
        names = [
            name.removesuffix(".weight")
            for name in parameters
            if name.startswith(prefix) and name.endswith(".weight")
        ]
        self.weights = [parameters[f"{name}.weight"] for name in names]
        """In order, the head's last. Shapes: (replicas, units, inputs)."""
        self.biases = [parameters[f"{name}.bias"] for name in names]
        """In order, the head's last. Shapes: (replicas, units)."""
        self.activation = activation
        """Its name."""

    @property
    def parameters(self) -> list[Tensor]:
        """Weight and bias of each layer in order, as an ordinary network gives them."""
        return [
            parameter
            for layer in zip(self.weights, self.biases, strict=True)
            for parameter in layer
        ]

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Shape: (replicas, batch, inputs) to (replicas, batch, outputs)."""
        activation = ACTIVATIONS[self.activation]
        *hidden, head = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            inputs = activation(torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT))
        weight, bias = head
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


class StackedDenseGradients:
    """Forward and backward of R networks, for batches of one size.

    Args:
        network: `backward` sets the `.grad` of its parameters, always to the same memory.
        batch_size: Rows of each replica's input.
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
        """Shape: (replicas, batch, inputs) to (replicas, batch, outputs), which the next call overwrites."""
        self._inputs.clear()
        network, last = self._network, len(self._sums) - 1
        for place, sums in enumerate(self._sums):
            self._inputs.append(inputs)
            bias, weight = network.biases[place], network.weights[place]
            torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT, out=sums)
            inputs = sums if place == last else self._activation(sums)
        return inputs

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Set every parameter's `.grad`.

        Args:
            gradient: Of each replica's loss with respect to the outputs of the last `forward`. Shape:
                (replicas, batch, outputs).
        """
        network = self._network
        for place in reversed(range(len(self._sums))):
            weight, bias, inputs = (
                network.weights[place],
                network.biases[place],
                self._inputs[place],
            )
            weight.grad, bias.grad = self._weight_gradients[place], self._bias_gradients[place]
            torch.bmm(gradient.mT, inputs, out=weight.grad)
            torch.sum(gradient, 1, out=bias.grad)
            if place:  # the observations need no gradient
                torch.bmm(gradient, weight, out=self._gradients[place])
                gradient = self._activation_gradient(
                    self._gradients[place], self._sums[place - 1], inputs
                )
