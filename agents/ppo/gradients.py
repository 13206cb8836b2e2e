"""Forward and backward pass of an actor or a critic: `DenseGradients` for dense networks, else autograd.

A minibatch of 128 through 2 x 256 units is so little work that a third of it is autograd's overhead. In a
dense network, every product is therefore written to preallocated memory, and nothing else is done. The
numbers equal autograd's up to rounding.

Everything has leading dimensions `*lead`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from plasticity.agents.execution.single import SingleNetwork
from plasticity.agents.networks.actor_critic import DenseNetwork
from plasticity.agents.networks.layers import ACTIVATIONS, DenseLayer
from plasticity.stacking.networks import StackedNetworks

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
    "leaky-relu-0.1": lambda gradient, sums, features: _aten.leaky_relu_backward.default(
        gradient, sums, 0.1, False
    ),
    "elu": lambda gradient, sums, features: _aten.elu_backward.default(
        gradient, 1.0, 1.0, 1.0, False, sums
    ),
    "silu": lambda gradient, sums, features: _aten.silu_backward.default(gradient, sums),
}
"""Derivatives of `ACTIVATIONS`, as implemented by torch, by the same names."""


class Gradients(Protocol):
    """Network, or stacked networks, whose gradients are computed from that of the outputs."""

    parameters: Sequence[Tensor]
    """Parameters whose `.grad` is set, in the order of the network. Shape of each: (*lead, *shape)."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for a batch of any size, without gradients.

        Shape: (*lead, any batch, inputs) to (*lead, any batch, outputs).
        """

    def forward(self, inputs: Tensor, recorded: Sequence[str] = ()) -> Tensor:
        """Return the outputs, which the next call overwrites.

        Shape: (*lead, batch, inputs) to (*lead, batch, outputs).

        Args:
            inputs: Inputs.
            recorded: Layers whose inputs `layer_inputs` is to hold.
        """

    def backward(self, gradient: Tensor, penalty: Tensor | None = None) -> None:
        """Set every parameter's `.grad`.

        Args:
            gradient: Gradient of the loss with respect to the outputs of the last `forward`. Shape:
                (*lead, batch, outputs).
            penalty: Further term of each network's loss, with a graph. Shape: (*lead,).
        """

    @property
    def layer_inputs(self) -> Mapping[str, Tensor]:
        """Inputs of the layers that the last `forward` recorded, by name, each (*lead, batch, …)."""


class DenseGradients:
    """Forward and backward pass of dense networks, for batches of a fixed size.

    Args:
        parameters: Parameters by their names in one `DenseNetwork`, from input to output: "fc1.weight",
            (*lead, units, inputs), "fc1.bias", (*lead, units), …, "head.bias". They are read in place at
            each call, never copied; `backward` sets their `.grad`, always to the same memory.
        activation: A name in `ACTIVATIONS`, for every layer except the head.
        batch_size: Number of rows of every input of `forward`.
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
        lead = self._weights[0].shape[:-2]
        self._sums = [w.new_empty(*lead, batch_size, w.shape[-2]) for w in self._weights]
        self._gradients = [w.new_empty(*lead, batch_size, w.shape[-1]) for w in self._weights]
        self._weight_gradients = [torch.zeros_like(weight) for weight in self._weights]
        self._bias_gradients = [torch.zeros_like(bias) for bias in self._biases]
        self._inputs: list[Tensor] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for a batch of any size; see `Gradients`."""
        return self._run(inputs, [None] * len(self._sums))

    def forward(self, inputs: Tensor, recorded: Sequence[str] = ()) -> Tensor:
        """Return the outputs; see `Gradients`."""
        self._inputs.clear()
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
        """Inputs of all layers, which are stored for the backward pass; see `Gradients`."""
        return dict(zip(self._layers, self._inputs, strict=True))

    @torch.no_grad()
    def backward(self, gradient: Tensor, penalty: Tensor | None = None) -> None:
        """Set every parameter's `.grad`; see `Gradients`. A penalty depends on the weights alone."""
        for index in reversed(range(len(self._weights))):
            weight, bias, inputs = self._weights[index], self._biases[index], self._inputs[index]
            weight.grad, bias.grad = self._weight_gradients[index], self._bias_gradients[index]
            self._product(gradient.mT, inputs, out=weight.grad)
            torch.sum(gradient, -2, out=bias.grad)
            if index:  # the observations need no gradient
                self._product(gradient, weight, out=self._gradients[index])
                gradient = self._activation_gradient(
                    self._gradients[index], self._sums[index - 1], inputs
                )
        if penalty is not None:
            own = _gradients(penalty, self.parameters)
            for parameter, each in zip(self.parameters, own, strict=True):
                if each is not None and parameter.grad is not None:
                    parameter.grad += each


class AutogradGradients:
    """Forward and backward pass of any network; `backward` sets the `.grad` of those parameters that matter.

    Args:
        networks: The network, or stacked ones.
    """

    def __init__(self, networks: SingleNetwork | StackedNetworks) -> None:
        self._networks = networks
        self.parameters: Sequence[Tensor] = [
            parameter for parameter in networks.parameters.values() if parameter.requires_grad
        ]
        self.layer_inputs: Mapping[str, Tensor] = {}
        """Inputs of the recorded layers, with the graph of the forward pass."""

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for a batch of any size; see `Gradients`."""
        return self._networks(inputs)

    @torch.enable_grad()
    def forward(self, inputs: Tensor, recorded: Sequence[str] = ()) -> Tensor:
        """Return the outputs; see `Gradients`."""
        self._outputs, self.layer_inputs = self._networks.with_inputs_of(recorded, inputs)
        return self._outputs.detach()

    def backward(self, gradient: Tensor, penalty: Tensor | None = None) -> None:
        """Set every parameter's `.grad`; see `Gradients`."""
        outputs, weights = [self._outputs], [gradient]
        if penalty is not None:
            outputs, weights = [*outputs, penalty], [*weights, torch.ones_like(penalty)]
        gradients = torch.autograd.grad(outputs, self.parameters, weights, allow_unused=True)
        for parameter, own in zip(self.parameters, gradients, strict=True):
            parameter.grad = own


def _gradients(penalty: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(penalty, parameters, torch.ones_like(penalty), allow_unused=True)


def gradients_of(
    networks: SingleNetwork | StackedNetworks,
    batch_size: int,
    *,
    by_autograd: bool = False,
) -> Gradients:
    """Return the passes of a network, or of stacked ones, for batches of a fixed size.

    Args:
        networks: The network, or stacked ones.
        batch_size: Number of rows of each network's input.
        by_autograd: Whether something has to be differentiated that is not written out.
    """
    activation = None if by_autograd else _dense_activation(networks.template)
    if activation is not None:
        return DenseGradients(networks.parameters, activation, batch_size)
    return AutogradGradients(networks)


def _dense_activation(network: nn.Module) -> str | None:
    """Return the activation of a network that computes and learns exactly what `DenseGradients` does.

    None for all others: a `DenseNetwork` may normalize its sums or have several activations, and it may have
    been changed after it was made: other layers, activations or hooks, no bias, tied or frozen weights.
    """
    if not isinstance(network, DenseNetwork) or type(network).forward is not DenseNetwork.forward:
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
