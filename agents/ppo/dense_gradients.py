"""Backpropagation through a dense network, written out.

A minibatch of 128 through 2 x 256 units is so little work that autograd's bookkeeping costs a third of
it. Here every product goes into memory that is there already, and nothing else is done. The numbers are
autograd's, to rounding.
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
"""torch's own derivatives of `ACTIVATIONS`, by the same names."""


class DenseGradients:
    """Forward and backward of one network, for batches of one size.

    Args:
        network: `backward` sets the `.grad` of its parameters, always to the same memory.
        batch_size: Rows of every input.
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
        """Shape: (batch, inputs) to (batch, outputs), which the next call overwrites."""
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
            gradient: Of the loss with respect to the outputs of the last `forward`. Shape:
                (batch, outputs).
        """
        for place in reversed(range(len(self._layers))):
            layer, inputs = self._layers[place], self._inputs[place]
            layer.weight.grad, layer.bias.grad = (
                self._weight_gradients[place],
                self._bias_gradients[place],
            )
            torch.mm(gradient.t(), inputs, out=layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if place:  # the observations need no gradient
                torch.mm(gradient, layer.weight, out=self._gradients[place])
                gradient = self._activation_gradient(
                    self._gradients[place], self._sums[place - 1], inputs
                )
