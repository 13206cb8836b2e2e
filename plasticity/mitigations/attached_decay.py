"""Decay that is attached to an optimizer of any class, by the function that regularized optimizers use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
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


class AttachedDecay:
    """Decay of a model's layers, as `regularized` would apply it with `parameter_groups(model, …)`.

    Parameters that join the optimizer later are decayed from then on, too.

    Args:
        model: Module without wrappers.
        optimizer: Optimizer of its parameters, or of some of them.
        settings: Settings of the decay.

    Raises:
        ValueError: if the optimizer decays already, or a decay cannot be added to its steps.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, settings: RegularizerSettings
    ) -> None:
        require_no_decay(optimizer)
        regularized(type(optimizer))  # refuses what cannot be regularized
        self._optimizer, self._settings = optimizer, settings
        # Only its anchors are of use: those of a regularized optimizer with the same groups.
        drawn = regularized(torch.optim.SGD)(parameter_groups(model, **asdict(settings)), lr=0.0)
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }
        self._anchors: dict[Tensor, Tensor] = {}
        self._factors: dict[Tensor, Tensor] = {}
        self._decayed: set[Tensor] = set()
        for group in drawn.param_groups:
            for index, parameter in enumerate(group["params"]):
                if group["regularizer"] == "none" or not has_target(group, index):
                    continue
                self._decayed.add(parameter)
                anchor = None if has_zero_anchor(group) else drawn.anchor(parameter)
                if anchor is not None:
                    self._anchors[parameter] = anchor
                if group["anisotropy"]:
                    self._factors[parameter] = make_factors(group, index)
        self._decoupled: list[bool] = []
        self._follow_groups()

    def _follow_groups(self) -> None:
        """Find how the decay joins the steps of the groups that are new."""
        base = type(self._optimizer)
        if isinstance(self._optimizer, RegularizedOptimizer):
            base = self._optimizer.base
        for group in self._optimizer.param_groups[len(self._decoupled) :]:
            decoupled = self._settings.decoupled
            if decoupled is not False:
                kind = base_decay_of(self._optimizer, base, group)
                if kind == "other":
                    raise ValueError(
                        f"{base.__name__}'s own weight decay is neither added to the gradient nor a factor"
                        f" before the step, so that decoupled={decoupled} would be another kind of decay:"
                        " give decoupled=False, which adds it to the gradient."
                    )
                if decoupled is None:
                    decoupled = kind == "decoupled"
            self._decoupled.append(decoupled)

    @torch.no_grad()
    def join(self) -> dict[Tensor, Tensor]:
        """Add the decay to the gradients, or move the weights where it is decoupled, before a step.

        Returns:
            The gradients without the decay, by parameter, where they were replaced.

        Raises:
            RuntimeError: if a gradient is sparse, and the decay is added to it.
        """
        groups = self._optimizer.param_groups
        if len(groups) > len(self._decoupled):
            self._follow_groups()
        replaced: dict[Tensor, Tensor] = {}
        for group, decoupled in zip(groups, self._decoupled, strict=True):
            chosen = [
                each for each in group["params"] if each.grad is not None and each in self._decayed
            ]
            if not chosen:
                continue
            anchors = [self._anchors[each] for each in chosen] if self._anchors else None
            factors = [self._factors[each] for each in chosen] if self._factors else None
            strength = self._settings.strength
            if decoupled:
                rate = group["lr"]
                amount = (rate.squeeze() if isinstance(rate, Tensor) else rate) * strength
                decay_toward_(chosen, anchors, amount, factors)
                continue
            gradients = [each.grad for each in chosen]
            if any(each.is_sparse for each in gradients):
                raise RuntimeError(
                    "A coupled decay cannot be added to a sparse gradient: give decoupled=True, or make the"
                    " gradient dense (nn.Embedding(sparse=False))."
                )
            if group.get("maximize", False):  # torch negates the gradient afterwards
                strength = -strength
            replaced.update(zip(chosen, gradients, strict=True))
            decayed = decayed_gradients(gradients, chosen, anchors, strength, factors)
            for parameter, gradient in zip(chosen, decayed, strict=True):
                parameter.grad = gradient
        return replaced

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return the anchors that cannot be drawn again, by name: those of l2-init; None for others."""
        if self._settings.regularizer != "l2-init":
            return None
        return {self._names[each]: anchor.clone() for each, anchor in self._anchors.items()}

    def load_state_dict(self, anchors: Mapping[str, Tensor] | None) -> None:
        """Load the anchors of l2-init.

        Raises:
            ValueError: if they are those of other parameters.
        """
        own = {self._names[each]: anchor for each, anchor in self._anchors.items()}
        if self._settings.regularizer != "l2-init":
            own = {}
        if own.keys() != (anchors or {}).keys():
            raise ValueError(
                f"The state has anchors of {sorted(anchors or {})}, but this model needs those of"
                f" {sorted(own)}: load that of the same model and decay."
            )
        for name, anchor in own.items():
            assert anchors is not None
            anchor.copy_(anchors[name])


def require_no_decay(optimizer: Optimizer) -> None:
    """Raise a ValueError if the optimizer itself decays its parameters."""
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
