"""Closures of optimizer steps, evaluated before the step so that mitigations find the gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def with_evaluated_closure(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments | None:
    """Evaluate the closure of a step, and return arguments with one that only returns its loss.

    The step is the same for optimizers that evaluate the closure once, before all else, as torch's do but
    for LBFGS. Lightning gives every step a closure.

    Args:
        optimizer: The optimizer.
        args: Positional arguments of its `step`, the optimizer itself first.
        kwargs: Arguments by name.

    Returns:
        The arguments for the step, or None if there is no closure.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return None
    with torch.enable_grad():
        evaluated = _Evaluated(closure(), type(optimizer).__name__)
    if len(args) > 1:
        return (args[0], evaluated, *args[2:]), kwargs
    return args, {**kwargs, "closure": evaluated}


class _Evaluated:
    """Closure that returns the loss of one that was evaluated; it can be called once."""

    def __init__(self, loss: Any, optimizer: str) -> None:
        self._loss, self._optimizer = loss, optimizer
        self._called = False

    def __call__(self) -> Any:
        if self._called:
            raise RuntimeError(
                f"{self._optimizer} evaluates its closure several times within a step, so that mitigations"
                " cannot act on its gradients: detach() them, or use an optimizer that evaluates it once."
            )
        self._called = True
        return self._loss
