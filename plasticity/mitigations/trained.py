"""Networks in training, as mitigations reach them: weights, the optimizer's moments, units, first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from plasticity.initialization import Distribution
from plasticity.mitigations.hidden_units import HiddenUnits, hidden_units
from plasticity.units import trace_units

Moments = Mapping[str, Tensor]
"""State of an optimizer for one parameter, by name (`exp_avg`); what has the parameter's shape."""

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

    moments: Callable[[Tensor], Moments]
    """Function that returns the optimizer's state of a parameter; empty if there is none (yet)."""

    units: dict[str, HiddenUnits] = field(default_factory=dict)
    """Hidden layers whose units are known, by name, from input to output; empty until these are found."""

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
        """Find the hidden layers, unless they are known.

        Args:
            inputs: A few inputs. Shape: (..., batch, *input_shape).

        Raises:
            ValueError: if the units of a layer cannot be followed.
        """
        if self.units:
            return
        network = self.ordinary()
        own = inputs[0] if self.lead else inputs
        self.units.update(hidden_units(trace_units(network, own[:2]), network))

    def tensor(self, name: str) -> tuple[Tensor, list[Tensor]]:
        """Return a parameter or buffer, detached, and its moments, of which a buffer has none."""
        if name in self.buffers:
            return self.buffers[name], []
        parameter = self.parameters[name]
        return parameter.detach(), list(self.moments(parameter).values())

    def of_run(self, index: int) -> Trained:
        """Return one of R stacked networks, as views of their memory."""
        if not self.lead:
            return self
        return replace(
            self,
            parameters={name: each[index] for name, each in self.parameters.items()},
            buffers={name: each[index] for name, each in self.buffers.items()},
            moments=partial(_moments_of_run, self, index),
            initialization={
                name: each[index] if isinstance(each, tuple) else each
                for name, each in self.initialization.items()
            },
            lead=(),
        )

    def forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the networks, with other parameters where these are given.

        Shape: (..., batch, *input_shape) to (..., batch, *output_shape).
        """
        tensors = {**self.parameters, **self.buffers, **(parameters or {})}
        if self.lead:
            outputs: Tensor = torch.func.vmap(self._one)(tensors, inputs)
            return outputs
        return self._one(tensors, inputs)

    def _one(self, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.module, tensors, (inputs,))
        return outputs


def optimizer_moments(optimizer: Optimizer, parameter: Tensor) -> Moments:
    """Return an ordinary optimizer's state of a parameter: what has the parameter's shape."""
    state = optimizer.state.get(parameter, {})
    return {
        name: each
        for name, each in state.items()
        if isinstance(each, Tensor) and each.shape == parameter.shape and name != "step"
    }


def _moments_of_run(stacked: Trained, index: int, parameter: Tensor) -> Moments:
    """Return the moments of a parameter that is a view of row `index` of a stacked one."""
    for each in stacked.parameters.values():
        if each[index].data_ptr() == parameter.data_ptr() and each[index].shape == parameter.shape:
            return {name: moment[index] for name, moment in stacked.moments(each).items()}
    return {}
