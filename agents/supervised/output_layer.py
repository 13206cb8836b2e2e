"""Output layer of a network, by the names of its parameters."""

from __future__ import annotations

from torch import Tensor, nn

from plasticity.mitigations.parameter_roles import output_layers, parameter_roles
from plasticity.units import trace_units


def output_parameters(network: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Return the names of the weights and biases whose units are the outputs of a network.

    The network runs once, in evaluation mode, and is left as it was.

    Args:
        network: The network.
        inputs: A few inputs. Shape: (batch, *input_shape).

    Raises:
        ValueError: if it cannot be told which layer makes the outputs.
    """
    roles = parameter_roles(network, output_layers(trace_units(network, inputs)))
    return tuple(name for name, role in roles.items() if role.is_output)
