"""Steps of torch's fused kernels, with their lists of tensors made once instead of at every step.

The bookkeeping of a step, torch's and that of a regularized optimizer, takes longer than the kernel itself on
a network of 50,000 weights. The optimizer stays the owner of all state, and the numbers are the same, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticity.optim.decay import decay_toward_, shift_gradients_
from plasticity.optim.linear_step import has_step_of_its_own
from plasticity.optim.optimizer import RegularizedOptimizer

_Kernel = Callable[[list[Tensor], dict[str, Any]], None]


class DirectStep:
    """Step of a regularized SGD, Adam or AdamW with fused kernels, of one parameter group, on a CPU.

    It holds as long as the group's settings but for the learning rate, and the tensors of the optimizer's
    state, stay as they are. A step in which a parameter has no gradient, or one that cannot be written to, is
    left to the optimizer.

    Args:
        optimizer: The optimizer, after its first step, for which `direct_step` found that this is possible.
        keep_gradients: Whether a part of the decay that was added to gradients is subtracted again.
    """

    def __init__(self, optimizer: RegularizedOptimizer, *, keep_gradients: bool) -> None:
        self._optimizer = optimizer
        self._group = group = optimizer.param_groups[0]
        self._parameters: list[Tensor] = group["params"]
        self._form = optimizer._sync_base_decay(0, group)
        self._keep_gradients = keep_gradients
        self._anchors: list[Any] | None = None
        if self._form in ("shifted", "decoupled"):
            targets = optimizer._targets_of(0, group)
            anchors = targets.anchors(targets.indices)
            self._anchors = None if anchors is None else list(anchors)
        state = [optimizer.state[each] for each in self._parameters]
        if optimizer.base is torch.optim.SGD:
            self._kernel = _sgd_kernel(self._parameters, state, group)
        else:
            self._kernel = _adam_kernel(self._parameters, state, optimizer.base)

    @torch.no_grad()
    def __call__(self) -> None:
        """Take a step."""
        group, parameters = self._group, self._parameters
        gradients: list[Any] = [each.grad for each in parameters]
        if any(each is None or 0 in each.stride() for each in gradients):
            self._optimizer.step()
            return
        if self._form == "decoupled":
            decay_toward_(parameters, self._anchors, group["lr"] * group["strength"])
        elif self._form == "shifted":
            assert self._anchors is not None
            strength = -group["strength"] if group["maximize"] else group["strength"]
            shift_gradients_(gradients, self._anchors, strength)
        self._kernel(gradients, group)
        if self._form == "shifted" and self._keep_gradients:
            assert self._anchors is not None
            shift_gradients_(gradients, self._anchors, -strength)


def direct_step(optimizer: Any, *, keep_gradients: bool = True) -> DirectStep | None:
    """Return the direct step of an optimizer from now on; None if it has another step, or has not begun.

    Args:
        optimizer: Any optimizer.
        keep_gradients: As in `DirectStep`.
    """
    if not isinstance(optimizer, RegularizedOptimizer) or len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    is_plain = (
        optimizer.base in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        and has_step_of_its_own(optimizer)
        and bool(group.get("fused"))
        and not group.get("amsgrad", False)
        and isinstance(group["lr"], float)
        and group["anisotropy"] == 0
        and all(p.device.type == "cpu" and p.grad is not None for p in group["params"])
        and _has_begun(optimizer)
    )
    if not is_plain:
        return None
    form = optimizer._sync_base_decay(0, group)
    if form == "coupled" or (
        form in ("shifted", "decoupled")
        and len(optimizer._targets_of(0, group).indices) < len(group["params"])
    ):
        return None
    return DirectStep(optimizer, keep_gradients=keep_gradients)


def _has_begun(optimizer: RegularizedOptimizer) -> bool:
    """Return whether all state that a step needs is there."""
    group = optimizer.param_groups[0]
    if optimizer.base is torch.optim.SGD and group["momentum"] == 0:
        return True
    name = "momentum_buffer" if optimizer.base is torch.optim.SGD else "exp_avg"
    states = [optimizer.state.get(each, {}) for each in group["params"]]
    return all(isinstance(state.get(name), Tensor) for state in states)


def _sgd_kernel(parameters: list[Tensor], state: list[dict[str, Any]], group: Any) -> _Kernel:
    buffers = [each["momentum_buffer"] for each in state] if group["momentum"] else []

    def step(gradients: list[Tensor], group: dict[str, Any]) -> None:
        torch._fused_sgd_(
            parameters,
            gradients,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
            grad_scale=None,
            found_inf=None,
        )

    return step


def _adam_kernel(
    parameters: list[Tensor], state: list[dict[str, Any]], base: type[torch.optim.Optimizer]
) -> _Kernel:
    first = [each["exp_avg"] for each in state]
    second = [each["exp_avg_sq"] for each in state]
    steps = [each["step"] for each in state]
    kernel = torch._fused_adamw_ if base is torch.optim.AdamW else torch._fused_adam_

    def step(gradients: list[Tensor], group: dict[str, Any]) -> None:
        torch._foreach_add_(steps, 1)
        kernel(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=None,
        )

    return step
