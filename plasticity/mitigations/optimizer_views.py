"""Optimizers as mitigations reach them: by the names of the network's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.optim.stacked_optimizer import StackedOptimizer

Moments = Mapping[str, Tensor]
"""State of an optimizer for one parameter, by name (`exp_avg`); what has the parameter's shape."""


BEGIN_AT_OTHERS = frozenset({"mu_product", "step_size", "eta"})
"""Names in the state of torch's NAdam, Rprop and ASGD that is not 0 before the first step."""


class OptimizerView(Protocol):
    """Optimizer of one network, or of R stacked ones; leading dimensions as in `Mitigation`."""

    def moments(self, name: str) -> Moments:
        """Return the state of a parameter; empty if there is none (yet). Shape of each: (..., *shape)."""

    def trained(self) -> Iterable[str]:
        """Return the names of the parameters that the optimizer trains, and that are not frozen."""

    def learning_rate(self, name: str) -> float | Tensor:
        """Return the learning rate of a parameter. Shape: (...), or a number of all networks.

        Raises:
            ValueError: if the optimizer does not have the parameter.
        """

    def restart(self, names: Iterable[str]) -> None:
        """Return the state of parameters to what it is before the first step: moments and counts of steps."""

    def of_run(self, index: int) -> OptimizerView:
        """Return the view of one of R stacked networks."""


class OrdinaryView:
    """View of an ordinary optimizer.

    Args:
        optimizer: The optimizer.
        parameters: Parameters of the network, by name.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> None:
        self._optimizer, self._parameters = optimizer, parameters

    def moments(self, name: str) -> Moments:
        """Return the state of a parameter that has its shape."""
        return optimizer_moments(self._optimizer, self._parameters[name])

    def trained(self) -> list[str]:
        """Return the names of the parameters in the optimizer's groups that require gradients."""
        owned = {each for group in self._optimizer.param_groups for each in group["params"]}
        every = self._parameters.items()
        return [name for name, each in every if each.requires_grad and each in owned]

    def learning_rate(self, name: str) -> float | Tensor:
        """Return the learning rate of the parameter's group."""
        group = self._group_of(self._parameters[name])
        if group is None:
            raise ValueError(
                f"The optimizer does not train {name!r}, which therefore has no learning rate: leave it"
                " alone."
            )
        rate: float | Tensor = group["lr"]
        return rate

    def _group_of(self, parameter: Tensor) -> dict[str, Any] | None:
        for group in self._optimizer.param_groups:
            if any(each is parameter for each in group["params"]):
                return group
        return None

    @torch.no_grad()
    def restart(self, names: Iterable[str]) -> None:
        """Set moments and counts of steps to 0, in place: a captured step holds their addresses.

        State that begins with other numbers is dropped: torch's optimizers make it anew.
        """
        for name in names:
            state = self._optimizer.state.get(self._parameters[name], {})
            if not BEGIN_AT_OTHERS.isdisjoint(state):
                state.clear()
            for each in state.values():
                if isinstance(each, Tensor):
                    each.zero_()
            if isinstance(state.get("step"), int):
                state["step"] = 0

    def of_run(self, index: int) -> OrdinaryView:
        """Return the view itself: there is one network."""
        return self


class StackedView:
    """View of the optimizer of R stacked networks, or of one of these.

    Args:
        optimizer: The optimizer.
        parameters: Stacked parameters by name. Shape of each: (R, *shape).
        index: The only network that is seen. None: all.
    """

    def __init__(
        self,
        optimizer: StackedOptimizer,
        parameters: Mapping[str, Tensor],
        index: int | None = None,
    ) -> None:
        self._optimizer, self._parameters, self._index = optimizer, parameters, index

    def moments(self, name: str) -> Moments:
        """Return the state of a parameter, as views."""
        found = self._optimizer.moments(self._parameters[name])
        if self._index is None:
            return found
        return {key: each[self._index] for key, each in found.items()}

    def trained(self) -> list[str]:
        """Return the names of all parameters: stacked networks are trained as a whole."""
        return list(self._parameters)

    def learning_rate(self, name: str) -> Tensor:
        """Return the learning rate of the parameter in each network. Shape: (...)."""
        rates = self._optimizer.learning_rates(self._parameters[name])
        return rates if self._index is None else rates[self._index]

    def restart(self, names: Iterable[str]) -> None:
        """Set moments and counts of steps to 0."""
        self._optimizer.restart([self._parameters[name] for name in names], self._index)

    def of_run(self, index: int) -> StackedView:
        """Return the view of one network."""
        return StackedView(self._optimizer, self._parameters, index)


def optimizer_moments(optimizer: Optimizer, parameter: Tensor) -> Moments:
    """Return an ordinary optimizer's state of a parameter: what has the parameter's shape."""
    state = optimizer.state.get(parameter, {})
    return {
        name: each
        for name, each in state.items()
        if isinstance(each, Tensor) and each.shape == parameter.shape and name != "step"
    }
