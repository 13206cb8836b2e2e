"""Decay that is attached to an optimizer of any class, by the function that regularized optimizers use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plasticity.optim.base_decay import base_decay_of
from plasticity.optim.decay import decay_toward_, decayed_gradients
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.targets import has_target, has_zero_anchor, make_factors


@dataclass(eq=False)
class _Target:
    """Parameter of the optimizer that is decayed."""

    group: int
    """Index of its group."""

    anchor: Tensor | None
    """Point that it is decayed toward; None for zero."""

    factors: Tensor | None
    """Diagonal of syre's Eq. 7; None for one."""


class AttachedDecay:
    """Decay of a model's layers, as `regularized` would apply it with `parameter_groups(model, …)`.

    Args:
        model: Module without wrappers.
        optimizer: Optimizer of its parameters, or of some of them.
        settings: Settings of the decay.

    Raises:
        ValueError: if the optimizer decays already.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, settings: RegularizerSettings
    ) -> None:
        _require_no_decay(optimizer)
        self._optimizer, self._settings = optimizer, settings
        groups = parameter_groups(model, **asdict(settings))
        # Only its anchors are of use: those of a regularized optimizer with the same groups.
        drawn = regularized(torch.optim.SGD)(groups, lr=0.0)
        owners = {
            parameter: index
            for index, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        self._targets: dict[Tensor, _Target] = {}
        for group in drawn.param_groups:
            for index, parameter in enumerate(group["params"]):
                is_decayed = group["regularizer"] != "none" and has_target(group, index)
                if parameter not in owners or not is_decayed:
                    continue
                anchor = None if has_zero_anchor(group) else drawn.anchor(parameter)
                factors = make_factors(group, index) if group["anisotropy"] else None
                self._targets[parameter] = _Target(owners[parameter], anchor, factors)
        first = optimizer.param_groups[0]
        follows = base_decay_of(optimizer, type(optimizer), first) == "decoupled"
        self._decoupled = follows if settings.decoupled is None else settings.decoupled

    @torch.no_grad()
    def join(self) -> dict[Tensor, Tensor]:
        """Add the decay to the gradients, or move the weights where it is decoupled, before a step.

        Returns:
            The gradients without the decay, by parameter, where they were replaced.
        """
        replaced: dict[Tensor, Tensor] = {}
        for parameter, target in self._targets.items():
            if parameter.grad is None:
                continue
            group = self._optimizer.param_groups[target.group]
            anchors = None if target.anchor is None else [target.anchor]
            factors = None if target.factors is None else [target.factors]
            strength = self._settings.strength
            if self._decoupled:
                decay_toward_([parameter], anchors, group["lr"] * strength, factors)
                continue
            if group.get("maximize", False):  # torch negates the gradient afterwards
                strength = -strength
            replaced[parameter] = parameter.grad
            (parameter.grad,) = decayed_gradients(
                [parameter.grad], [parameter], anchors, strength, factors
            )
        return replaced

    def state_dict(self) -> list[Tensor] | None:
        """Return the anchors that cannot be drawn again: those of l2-init; None for other decays."""
        if self._settings.regularizer != "l2-init":
            return None
        return [each.anchor.clone() for each in self._targets.values() if each.anchor is not None]

    def load_state_dict(self, anchors: list[Tensor] | None) -> None:
        """Load the anchors of l2-init."""
        if anchors is None:
            return
        for target, anchor in zip(self._targets.values(), anchors, strict=True):
            assert target.anchor is not None
            target.anchor.copy_(anchor)


def _require_no_decay(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    if isinstance(optimizer, RegularizedOptimizer) and any(
        group["regularizer"] != "none" for group in optimizer.param_groups
    ):
        raise ValueError(f"This {name} is regularized already: leave out one of the two decays.")
    for index, group in enumerate(optimizer.param_groups):
        if _decay_of(group) != 0:
            raise ValueError(
                f"Group {index} of this {name} has weight_decay={group['weight_decay']}, and the attached"
                " decay would be a second one: set it to 0 (AdamW's default is 0.01)."
            )


def _decay_of(group: Mapping[str, Any]) -> float:
    return float(group.get("weight_decay", 0.0) or 0.0)
