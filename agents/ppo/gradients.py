"""Forward and backward pass of an actor or a critic: `DenseGradients` for dense networks, else autograd.

Everything has leading dimensions `*lead`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from plasticity.agents.execution.dense import DenseGradients, dense_activation
from plasticity.agents.execution.single import SingleNetwork
from plasticity.stacking.networks import StackedNetworks


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
    activation = None if by_autograd else dense_activation(networks.template)
    if activation is not None:
        return DenseGradients(networks.parameters, activation, batch_size)
    return AutogradGradients(networks)
