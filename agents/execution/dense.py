"""Forward and backward pass of a dense network, written out.

A minibatch of 128 through 2 x 256 units is so little work that a third of it is autograd's overhead. In a
dense network, every product is therefore written to preallocated memory, and nothing else is done. The
numbers equal autograd's up to rounding.

Everything has leading dimensions `*lead`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from plasticity.agents.networks.actor_critic import DenseNetwork
from plasticity.agents.networks.feedforward import FeedforwardNetwork
from plasticity.agents.networks.layers import ACTIVATIONS, DenseLayer

_aten = torch.ops.aten

ActivationGradient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function that turns the gradient of features into that of the sums, in place, from this gradient, the sums
before the activation, and the features."""

ACTIVATION_GRADIENTS: dict[str, ActivationGradient] = {
    "relu": lambda gradient, sums, features: _aten.threshold_backward.grad_input(
        gradient, features, 0, grad_input=gradient
    ),
    "tanh": lambda gradient, sums, features: _aten.tanh_backward.grad_input(
        gradient, features, grad_input=gradient
    ),
    "gelu": lambda gradient, sums, features: _aten.gelu_backward.grad_input(
        gradient, sums, grad_input=gradient
    ),
    "leaky-relu": lambda gradient, sums, features: _aten.leaky_relu_backward.grad_input(
        gradient, sums, 0.01, False, grad_input=gradient
    ),
    "leaky-relu-0.1": lambda gradient, sums, features: _aten.leaky_relu_backward.grad_input(
        gradient, sums, 0.1, False, grad_input=gradient
    ),
    "elu": lambda gradient, sums, features: _aten.elu_backward.grad_input(
        gradient, 1.0, 1.0, 1.0, False, sums, grad_input=gradient
    ),
    "silu": lambda gradient, sums, features: _aten.silu_backward.grad_input(
        gradient, sums, grad_input=gradient
    ),
}
"""Derivatives of `ACTIVATIONS`, as implemented by torch, by the same names."""

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}
"""Forms of `ACTIVATIONS` that overwrite the sums, of those whose derivatives do not need these."""


class DenseGradients:
    """Forward and backward pass of dense networks.

    Args:
        parameters: Parameters by their names in one network, from input to output: "fc1.weight",
            (*lead, units, inputs), "fc1.bias", (*lead, units), …, "head.bias". They are read in place at
            each call, never copied; `backward` sets their `.grad`, always to the same memory.
        activation: A name in `ACTIVATIONS`, for every layer except the last.
        batch_size: Number of rows of most inputs of `forward`, for which memory is allocated now. That for
            another number is allocated at its first use.
    """

    def __init__(self, parameters: Mapping[str, Tensor], activation: str, batch_size: int) -> None:
        self.parameters: Sequence[Tensor] = list(parameters.values())
        self._layers = [
            name.removesuffix(".weight") for name in parameters if name.endswith(".weight")
        ]
        self._weights = [p for name, p in parameters.items() if name.endswith(".weight")]
        self._biases = [p for name, p in parameters.items() if name.endswith(".bias")]
        stacked = self._weights[0].dim() == 3
        # They round differently: the first for one network, the second for stacked ones.
        self._affine = torch.baddbmm if stacked else torch.addmm
        self._product = torch.bmm if stacked else torch.mm
        self._rows = [bias.detach().unsqueeze(1) if stacked else bias for bias in self._biases]
        hidden = len(self._weights) - 1
        self._activations = [*[ACTIVATIONS[activation]] * hidden, None]
        self._activation_gradient = ACTIVATION_GRADIENTS[activation]
        self._memories: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._sums, self._gradients = self._memory(batch_size)
        self._weight_gradients = [torch.zeros_like(weight) for weight in self._weights]
        self._bias_gradients = [torch.zeros_like(bias) for bias in self._biases]
        self._inputs: list[Tensor] = []

    def _memory(self, batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return memory for the sums of each layer, and for the gradients of its inputs."""
        if batch_size not in self._memories:
            lead = self._weights[0].shape[:-2]
            self._memories[batch_size] = (
                [w.new_empty(*lead, batch_size, w.shape[-2]) for w in self._weights],
                [w.new_empty(*lead, batch_size, w.shape[-1]) for w in self._weights],
            )
        return self._memories[batch_size]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for a batch of any size, without gradients.

        Shape: (*lead, any batch, inputs) to (*lead, any batch, outputs).
        """
        return self._run(inputs, [None] * len(self._weights))

    def forward(self, inputs: Tensor, recorded: Sequence[str] = ()) -> Tensor:
        """Return the outputs, which the next call overwrites.

        Shape: (*lead, batch, inputs) to (*lead, batch, outputs).

        Args:
            inputs: Inputs.
            recorded: Layers whose inputs `layer_inputs` is to hold; it holds those of all.
        """
        self._inputs.clear()
        self._sums, self._gradients = self._memory(inputs.shape[-2])
        return self._run(inputs, self._sums)

    @torch.no_grad()
    def _run(self, inputs: Tensor, out: Iterable[Tensor | None]) -> Tensor:
        for weight, row, activation, sums in zip(
            self._weights, self._rows, self._activations, out, strict=True
        ):
            if sums is not None:
                self._inputs.append(inputs)
            inputs = self._affine(row, inputs, weight.mT, out=sums)
            if activation is not None:
                inputs = activation(inputs)
        return inputs

    @property
    def layer_inputs(self) -> Mapping[str, Tensor]:
        """Inputs of all layers in the last `forward`, by name, which the backward pass needs."""
        return dict(zip(self._layers, self._inputs, strict=True))

    @torch.no_grad()
    def backward(self, gradient: Tensor, penalty: Tensor | None = None) -> None:
        """Set every parameter's `.grad`.

        Args:
            gradient: Gradient of the loss with respect to the outputs of the last `forward`. Shape:
                (*lead, batch, outputs).
            penalty: Further term of each network's loss, with a graph, which depends on the weights alone.
                Shape: (*lead,).
        """
        for index in reversed(range(len(self._weights))):
            weight, bias, inputs = self._weights[index], self._biases[index], self._inputs[index]
            weight.grad, bias.grad = self._weight_gradients[index], self._bias_gradients[index]
            self._product(gradient.mT, inputs, out=weight.grad)
            torch.sum(gradient, -2, out=bias.grad)
            if index:  # the inputs of the network need no gradient
                self._product(gradient, weight, out=self._gradients[index])
                gradient = self._activation_gradient(
                    self._gradients[index], self._sums[index - 1], inputs
                )
        if penalty is not None:
            own = torch.autograd.grad(
                penalty, self.parameters, torch.ones_like(penalty), allow_unused=True
            )
            for parameter, each in zip(self.parameters, own, strict=True):
                if each is not None and parameter.grad is not None:
                    parameter.grad += each


def dense_activation(network: nn.Module) -> str | None:
    """Return the activation of a network that computes and learns exactly what `DenseGradients` does.

    None for all others: a dense network may normalize its sums or have several activations, and it may have
    been changed after it was made: other layers, activations or hooks, no bias, tied or frozen weights.

    Args:
        network: A `DenseNetwork`, or a `FeedforwardNetwork`, whose inputs are still to be flattened.
    """
    if type(network).forward not in (DenseNetwork.forward, FeedforwardNetwork.forward):
        return None
    *hidden, head = list(network.children())
    activation = next(
        (
            name
            for name, function in ACTIVATIONS.items()
            if all(getattr(layer, "activations", None) == (function,) for layer in hidden)
        ),
        None,
    )
    # A module inside of a layer normalizes its sums, or acts on its outputs.
    layers_are_its_own = type(head) is nn.Linear and all(
        type(layer) is DenseLayer and not list(layer.children()) for layer in hidden
    )
    # tied parameters have one name only, and a missing bias has none
    parameters = dict(network.named_parameters())
    names = [f"{layer}.{kind}" for layer in network._modules for kind in ("weight", "bias")]
    is_dense = (
        layers_are_its_own
        and list(parameters) == names
        and all(parameter.requires_grad for parameter in parameters.values())
        and not any(each._forward_hooks or each._forward_pre_hooks for each in network.modules())
    )
    return activation if is_dense else None
