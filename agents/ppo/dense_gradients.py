"""Explicit backpropagation through a dense network.

A minibatch of 128 through 2 x 256 units is so little work that a third of it is autograd's overhead. Here,
every product is written to preallocated memory, and nothing else is done. The numbers equal autograd's up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticity.agents.networks.actor_critic import DenseNetwork

_aten = torch.ops.aten

ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    # (gradient of the features, sums before the activation, features) -> gradient of the sums
    "relu": lambda gradient, sums, features: _aten.threshold_backward.default(
        gradient, features, 0
    ),
    "tanh": lambda gradient, sums, features: _aten.tanh_backward.default(gradient, features),
    "gelu": lambda gradient, sums, features: _aten.gelu_backward.default(gradient, sums),
    "leaky-relu": lambda gradient, sums, features: _aten.leaky_relu_backward.default(
        gradient, sums, 0.01, False
    ),
    "elu": lambda gradient, sums, features: _aten.elu_backward.default(
        gradient, 1.0, 1.0, 1.0, False, sums
    ),
    "silu": lambda gradient, sums, features: _aten.silu_backward.default(gradient, sums),
}
"""Derivatives of `ACTIVATIONS`, as implemented by torch, by the same names."""


class DenseGradients:
    """Forward and backward pass of one network, for batches of a fixed size.

    Args:
        network: The network. `backward` sets the `.grad` of its parameters, always to the same memory.
        batch_size: Number of rows of every input.
    """

    def __init__(self, network: DenseNetwork, batch_size: int) -> None:
        self._layers = network.layers()
        self._activations = [getattr(layer, "activation", None) for layer in self._layers]
        self._activation_gradient = ACTIVATION_GRADIENTS[network.activation]
        self._inputs: list[Tensor] = []
        weight = network.head.weight
        self._sums = [weight.new_empty(batch_size, layer.out_features) for layer in self._layers]
        self._gradients = [
            weight.new_empty(batch_size, layer.in_features) for layer in self._layers
        ]
        self._weight_gradients = [torch.zeros_like(layer.weight) for layer in self._layers]
        self._bias_gradients = [torch.zeros_like(layer.bias) for layer in self._layers]

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, which the next call overwrites. Shape: (batch, inputs) to (batch, outputs)."""
        self._inputs.clear()
        for layer, activation, sums in zip(
            self._layers, self._activations, self._sums, strict=True
        ):
            self._inputs.append(inputs)
            torch.addmm(layer.bias, inputs, layer.weight.t(), out=sums)
            inputs = sums if activation is None else activation(sums)
        return inputs

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Set every parameter's `.grad`.

        Args:
            gradient: Gradient of the loss with respect to the outputs of the last `forward`. Shape:
                (batch, outputs).
        """
        for index in reversed(range(len(self._layers))):
            layer, inputs = self._layers[index], self._inputs[index]
            layer.weight.grad, layer.bias.grad = (
                self._weight_gradients[index],
                self._bias_gradients[index],
            )
            torch.mm(gradient.t(), inputs, out=layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if index:  # the observations need no gradient
                torch.mm(gradient, layer.weight, out=self._gradients[index])
                gradient = self._activation_gradient(
                    self._gradients[index], self._sums[index - 1], inputs
                )
