"""Networks in training, as mitigations reach them: weights, the optimizer's moments, units, first weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plasticity.initialization import Distribution
from plasticity.mitigations.hidden_units import HiddenUnits, resettable_units
from plasticity.mitigations.optimizer_views import OptimizerView
from plasticity.mitigations.parameter_roles import (
    ParameterRole,
    output_layers,
    parameter_roles,
)
from plasticity.recording import recorded_inputs
from plasticity.units import UnitFlow, trace_units

Recorded = Callable[[nn.Module, Sequence[str]], AbstractContextManager[dict[str, Tensor]]]
"""Block that records something of a model's layers, into the dictionary that it yields."""

Initial = Distribution | tuple[Distribution, ...]
"""Distribution of a parameter's initial values: one of all networks, or one for each of R stacked ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """One network, or R stacked ones, with an optimizer; leading dimensions as in `Mitigation`."""

    parameters: Mapping[str, Tensor]
    """Parameters by name. Shape of each: (..., *shape)."""

    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    """Buffers by name, likewise."""

    module: nn.Module
    """Module whose `forward` is run, with the parameters and buffers above."""

    optimizer: OptimizerView
    """Their optimizer."""

    units: dict[str, HiddenUnits] = field(default_factory=dict)
    """Hidden layers whose units are known, by name, from input to output; empty until these are found."""

    roles: dict[str, ParameterRole] = field(default_factory=dict)
    """Role of each trained parameter, by name; empty until these are found."""

    memories: dict[str, list[Tensor]] = field(default_factory=dict)
    """Memories that mitigations have of a parameter, as the optimizer has moments, by the parameter's name.
    Shape of each: (..., *shape)."""

    initialization: Mapping[str, Initial]
    """Distribution that each parameter is drawn from, by name."""

    ordinary: Callable[[], nn.Module]
    """Function that returns the network, or a copy of the first stacked one, as an ordinary module."""

    lead: tuple[int, ...] = ()
    """Leading dimensions: () for one network, (R,) for R stacked ones."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.parameters.values())).device

    @torch.no_grad()
    def find_units(self, inputs: Tensor) -> None:
        """Find the hidden layers whose units can be reset one by one, unless they are known.

        Those whose units are added to others', as at the end of a residual block, are left alone.

        Args:
            inputs: A few inputs. Shape: (..., batch, *input_shape).

        Raises:
            ValueError: if there are hidden layers, and none of them is such a layer.
        """
        if not self.units:
            network, flow = self._traced(inputs)
            found, faults = resettable_units(flow, network)
            if faults and not found:
                raise ValueError("\n".join(faults.values()))
            self.units.update(found)

    @torch.no_grad()
    def find_roles(self, inputs: Tensor) -> None:
        """Find the roles of all parameters, unless they are known.

        Args:
            inputs: A few inputs. Shape: (..., batch, *input_shape).

        Raises:
            ValueError: if it cannot be told which layer makes the output.
        """
        if not self.roles:
            network, flow = self._traced(inputs)
            self.roles.update(parameter_roles(network, output_layers(flow)))

    def _traced(self, inputs: Tensor) -> tuple[nn.Module, UnitFlow]:
        network = self.ordinary()
        own = inputs[0] if self.lead else inputs
        return network, trace_units(network, own[:2])

    def tensor(self, name: str) -> tuple[Tensor, list[Tensor]]:
        """Return a parameter or buffer, detached, and its `moments`, of which a buffer has none."""
        if name in self.buffers:
            return self.buffers[name], []
        return self.parameters[name].detach(), self.moments(name)

    def moments(self, name: str) -> list[Tensor]:
        """Return all that is remembered of a parameter's steps: by the optimizer, and by mitigations."""
        return [*self.optimizer.moments(name).values(), *self.memories.get(name, ())]

    def of_run(self, index: int) -> Trained:
        """Return one of R stacked networks, as views of their memory."""
        if not self.lead:
            return self
        return replace(
            self,
            parameters={name: each[index] for name, each in self.parameters.items()},
            buffers={name: each[index] for name, each in self.buffers.items()},
            optimizer=self.optimizer.of_run(index),
            memories={name: [one[index] for one in each] for name, each in self.memories.items()},
            initialization={
                name: each[index] if isinstance(each, tuple) else each
                for name, each in self.initialization.items()
            },
            lead=(),
        )

    def forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the networks in evaluation mode, with other parameters or buffers where these are given.

        Shape: (..., batch, *input_shape) to (..., batch, *output_shape).
        """
        return self.forward_with_inputs_of((), inputs, parameters)[0]

    def forward_with_inputs_of(
        self,
        layers: Sequence[str],
        inputs: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        recorded: Recorded = recorded_inputs,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the networks as `forward`, and return the inputs of these layers, too.

        Args:
            layers: Names of the layers.
            inputs: Shape: (..., batch, *input_shape).
            parameters: As in `forward`.
            recorded: What is recorded: `recorded_inputs`, or `recorded_sums`.

        Returns:
            The outputs, (..., batch, *output_shape), and what was recorded, each (..., batch, …).
        """

        def one(tensors: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            # A hook's tensors cannot leave vmap, except as outputs.
            with recorded(self.module, layers) as found:
                outputs: Tensor = functional_call(self.module, tensors, (inputs,))
            return outputs, dict(found)

        tensors = {**self.parameters, **self.buffers, **(parameters or {})}
        with _evaluation_mode(self.module):
            result: tuple[Tensor, dict[str, Tensor]] = (
                torch.func.vmap(one)(tensors, inputs) if self.lead else one(tensors, inputs)
            )
        return result


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Let a module draw no dropout and update no running statistics inside the block."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True
