"""Hidden units of a model, of which an optimizer trains all, some or no weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.mitigations.hidden_units import HiddenUnits, hidden_units, named_readers
from plasticity.mitigations.parameter_roles import (
    ParameterRole,
    output_layers,
    parameter_roles,
)
from plasticity.units import trace_units

logger = logging.getLogger("plasticity")


class AttachedUnits:
    """Hidden units that mitigations may act on: those of which the optimizer trains all weights.

    Args:
        model: Module without wrappers.
        optimizer: Optimizer of its parameters, or of some of them.
        layers: As in `attach`.
        readers: As in `attach`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        layers: Sequence[str] | None,
        readers: Mapping[str, str] | None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._layers, self._readers = layers, readers
        self._parameters = dict(model.named_parameters())
        self._every: dict[str, HiddenUnits] = {}
        self._weights: dict[str, list[nn.Parameter] | None] = {}
        self.optimized: set[Tensor] = set()
        """Parameters of the optimizer."""
        self.visible: dict[str, HiddenUnits] = {}
        """Units that mitigations see at the moment, by the name of their layer."""
        self._outputs: set[str] = set()
        self._every_role: dict[str, ParameterRole] = {}
        self.roles: dict[str, ParameterRole] = {}
        """Roles of the parameters that are trained at the moment, by name."""
        self.follow_groups()

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, units: bool) -> None:
        """Find the units and the roles of the parameters, given the inputs of a call.

        Args:
            args: Positional arguments of the call.
            kwargs: Its arguments by name.
            units: Whether units are needed, too, and not only roles.

        Raises:
            ValueError: if they cannot be followed, or the optimizer trains all weights of none.
        """
        if self._readers is not None:
            outputs = set(self._readers.values()) - set(self._readers)
            self._every = named_readers(self._model, self._readers) if units else {}
        else:
            flow = trace_units(self._model, *args, **kwargs)
            outputs = output_layers(flow)
            self._every = hidden_units(flow, self._model, self._layers) if units else {}
        self._outputs = outputs
        self._find_roles()
        if units:
            self._require_some_trained()
        self.show_all()

    def _find_roles(self) -> None:
        """Find the roles of the parameters that the mitigations know."""
        found = parameter_roles(self._model, self._outputs)
        self._every_role = {name: each for name, each in found.items() if name in self._parameters}

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take parameters that the model and the optimizer have got since."""
        self._parameters |= parameters
        self.follow_groups()
        if self._every_role:  # known already: otherwise found at the first call
            self._find_roles()
            self.show_all()

    def _require_some_trained(self) -> None:
        left_out = [name for name in self._every if not self._is_trained(name)]
        if len(left_out) == len(self._every):
            raise ValueError(
                "There is no hidden layer of which the optimizer trains all weights, and all that read its"
                f" units; not trained: {left_out}. Give the optimizer that has them, or name layers in"
                " readers={LAYER: READER}."
            )
        if left_out:
            logger.info("Left alone, since not all of their weights are trained: %s.", left_out)

    def follow_groups(self) -> None:
        """Find which parameters the optimizer has, which may have become more."""
        groups = self._optimizer.param_groups
        # a list: a generator would take most of the time of this line, at every step
        if sum([len(group["params"]) for group in groups]) == len(self.optimized):
            return
        self.optimized = {each for group in groups for each in group["params"]}
        self._weights.clear()
        known = set(self._parameters.values())
        newer = [
            name
            for name, each in self._model.named_parameters()
            if each in self.optimized and each not in known
        ]
        if newer:
            warnings.warn(
                f"The model's parameters {newer} are newer than the mitigations attached to it, which leave"
                " them alone: detach(), and attach again.",
                stacklevel=2,
            )

    def show_trained(self, recorded: Collection[str] | None = None) -> None:
        """Let mitigations see only units of which all weights are trained now, and trained parameters.

        Args:
            recorded: Layers whose inputs were recorded; then only units that one of these reads. None: all.
        """
        self.show_all()
        self._show_roles()
        for name, each in self._every.items():
            has_run = recorded is None or each.readers[0].layer in recorded
            if not has_run or not self._is_trained(name):
                del self.visible[name]

    def show_all(self) -> None:
        """Let mitigations see all units and roles, also of what may be trained later."""
        for shown, every in ((self.visible, self._every), (self.roles, self._every_role)):
            if len(shown) < len(every):
                shown.clear()  # which keeps the order
                shown.update(every)  # type: ignore[arg-type]

    def _show_roles(self) -> None:
        self.roles.clear()
        for name, role in self._every_role.items():
            parameter = self._parameters[name]
            if parameter.requires_grad and parameter in self.optimized:
                self.roles[name] = role

    def _is_trained(self, layer: str) -> bool:
        """Return whether the optimizer trains all weights of these units, and all that read them."""
        if layer not in self._weights:
            units = self._every[layer]
            names = [units.weight, units.bias, *units.scales, *units.offsets]
            names += [each.weight for each in units.readers]
            own = [self._parameters[each] for each in names if each in self._parameters]
            self._weights[layer] = own if self.optimized.issuperset(own) else None
        weights = self._weights[layer]
        return weights is not None and all(each.requires_grad for each in weights)
