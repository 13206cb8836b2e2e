"""Steps of plain SGD in closed form, for learners that update the weights while they find the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.plan import is_active
from plasticity.optim.targets import has_zero_anchor


@dataclass(frozen=True, eq=False)
class LinearStep:
    """Step theta <- theta - rate * (gradient + strength * (theta - anchor)) of an optimizer."""

    group: Mapping[str, Any]
    """Parameter group of the optimizer, which holds all of its parameters."""

    strength: float
    """Strength of the decay, coupled or decoupled, which are the same here; 0 without one."""

    anchors: Mapping[Tensor, Tensor] | None
    """Points that the parameters are drawn toward, by parameter; None for zero."""

    @property
    def rate(self) -> float:
        """Learning rate now, which a schedule may change at any step."""
        rate: float = self.group["lr"]
        return rate


def linear_step(optimizer: torch.optim.Optimizer) -> LinearStep | None:
    """Return the step of a regularized optimizer in closed form; None if it is another.

    It is one of SGD without momentum, in which a decay draws all parameters or none.

    Raises:
        ValueError: if a setting that was edited is out of range.
    """
    if not isinstance(optimizer, RegularizedOptimizer) or optimizer.base is not torch.optim.SGD:
        return None
    if len(optimizer.param_groups) != 1 or not has_step_of_its_own(optimizer):
        return None
    group = optimizer.param_groups[0]
    is_plain = group["momentum"] == 0 and not group["maximize"] and isinstance(group["lr"], float)
    if not is_plain:
        return None
    optimizer._sync_base_decay(0, group)  # which checks the settings
    if not is_active(group):
        return LinearStep(group, 0.0, None)
    targets = optimizer._targets_of(0, group)
    everything = list(range(len(group["params"])))
    if targets.indices != everything or targets.factors([]) is not None:
        return None
    anchors = None
    if not has_zero_anchor(group):
        anchors = dict(zip(group["params"], targets.anchors(everything) or (), strict=True))
    return LinearStep(group, group["strength"], anchors)


def has_step_of_its_own(optimizer: RegularizedOptimizer) -> bool:
    """Return whether nothing takes part in a step but the optimizer itself."""
    return (
        optimizer._kernels is None
        and "step" not in vars(optimizer)  # which a schedule of learning rates wraps
        and not _global_optimizer_pre_hooks
        and not _global_optimizer_post_hooks
        and not optimizer._awaited  # initial weights that a step is to store
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        and getattr(optimizer, "grad_scale", None) is None
        and getattr(optimizer, "found_inf", None) is None
    )
