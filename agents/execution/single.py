"""One ordinary network and its optimizer, behind the interfaces of stacked ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.agents.execution.compiled import optimizer_constants
from plasticity.optim.direct_step import DirectStep, direct_step
from plasticity.recording import record_inputs, recorded_inputs
from plasticity.stacking.networks import require_index

__all__ = ["SingleNetwork", "SingleOptimizer", "constants_of", "part_of"]


def part_of(numbers: Any, lead: tuple[int, ...], index: int) -> Any:
    """Return one network's part of a tensor or an array, as a view: (*lead, …) to (…).

    Args:
        numbers: Tensor or array.
        lead: Leading dimensions: () for one network, (R,) for R stacked ones.
        index: Index of the network; without leading dimensions, all belongs to the only one.
    """
    return numbers[index] if lead else numbers


class SingleNetwork:
    """Ordinary network with the interface of `StackedNetworks`.

    Args:
        network: The network, which is not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        self.template = network
        """The network."""
        self.parameters: Mapping[str, Tensor] = dict(network.named_parameters())
        """Parameters by name."""
        self.buffers: Mapping[str, Tensor] = dict(network.named_buffers())
        """Buffers by name."""
        self._recorded: dict[str, Tensor] | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the network."""
        outputs: Tensor = self.template(inputs)
        return outputs

    def with_inputs_of(
        self, layers: Sequence[str], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the network, and return the inputs of these layers by name, too."""
        if self._recorded is not None:
            return self(inputs), dict(self._recorded)
        if not layers:
            return self(inputs), {}
        with recorded_inputs(self.template, layers) as found:
            outputs = self(inputs)
        return outputs, found

    def always_record(self, layers: Sequence[str]) -> None:
        """Record the inputs of these layers at every call, so that a compiled call records them, too."""
        if self._recorded is None:
            self._recorded = {}
            record_inputs(self.template, layers, self._recorded)

    def network(self, index: int = 0) -> nn.Module:
        """Return the network itself."""
        require_index(index, 1)
        return self.template

    def train(self, mode: bool = True) -> None:
        """Set the network to training mode, or to evaluation mode if `mode` is False."""
        self.template.train(mode)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the weights and buffers of the network."""
        require_index(index, 1)
        return self.template.state_dict()

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load the weights and buffers of a network."""
        require_index(index, 1)
        self.template.load_state_dict(state)


class SingleOptimizer:
    """Ordinary optimizer of one network with the interface of a `StackedOptimizer`.

    Args:
        ordinary: The optimizer.
        captured: Whether steps are captured in a CUDA graph. The learning rate then lies on the device, so
            that a schedule does not need a new capture for every update.
    """

    def __init__(self, ordinary: torch.optim.Optimizer, *, captured: bool = False) -> None:
        self.ordinary = ordinary
        self._rate = ordinary.param_groups[0]["lr"]
        parameter = ordinary.param_groups[0]["params"][0]
        self._captured_rate = torch.zeros((), device=parameter.device) if captured else None
        self._direct: DirectStep | None = None
        self._keep_gradients: bool | None = None

    def step(self, active: Tensor | None = None) -> None:
        """Take a step; `active` is for stacked networks only."""
        if self._direct is not None:
            self._direct()
            return
        self.ordinary.step()
        if self._keep_gradients is not None:  # the state that it needs is there now
            self._direct = direct_step(self.ordinary, keep_gradients=self._keep_gradients)
            self._keep_gradients = None

    def take_direct_steps(self, *, keep_gradients: bool) -> None:
        """Leave out the bookkeeping of steps, from the next but one on, if the optimizer has a `DirectStep`.

        To be called again after settings have changed, but for the learning rate.

        Args:
            keep_gradients: Whether gradients are read after a step.
        """
        self._direct, self._keep_gradients = None, keep_gradients

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for group in self.ordinary.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def set_learning_rate(self, rates: Sequence[float]) -> None:
        """Set the learning rate of all groups."""
        (self._rate,) = rates
        rate: float | Tensor = self._rate
        if self._captured_rate is not None:
            rate = self._captured_rate.fill_(self._rate)
        for group in self.ordinary.param_groups:
            group["lr"] = rate

    def freeze(self, index: int) -> None:
        """Do nothing: the only network stays as it is when nobody takes a step."""
        require_index(index, 1)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of the optimizer."""
        require_index(index, 1)
        state = self.ordinary.state_dict()
        if self._captured_rate is not None:
            for group in state["param_groups"]:
                group["lr"] = self._rate  # a number, as without a graph
        return state

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load the state of an optimizer."""
        require_index(index, 1)
        _load(self.ordinary, state)
        self._direct = None  # the state is in other tensors
        if self._captured_rate is not None:  # the loaded one is a number
            self.set_learning_rate([self.ordinary.param_groups[0]["lr"]])


def constants_of(optimizer: object) -> Hashable:
    """Return the numbers that a captured step of an optimizer holds fixed.

    Those of a `StackedOptimizer` are none: they are tensors, which a captured step reads.
    """
    if isinstance(optimizer, SingleOptimizer):
        return optimizer_constants(optimizer.ordinary)
    return ()


def _load(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state, but keep the current implementation (fused, foreach, capturable).

    The implementation depends on the device, which may differ from that of the saved run.
    """
    names = ("fused", "foreach", "capturable")
    forms = [
        {name: group[name] for name in names if name in group} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    for group, form in zip(optimizer.param_groups, forms, strict=True):
        group.update(form)
