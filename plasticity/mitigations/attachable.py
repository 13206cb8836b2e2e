"""Refusals of models and optimizers that mitigations cannot be attached to, each with its remedy."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from plasticity.mitigations.method import SeededMethod
from plasticity.mitigations.stacked_settings import overrides


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside a library's wrapper, such as Accelerate's, whose step is the one hooked."""
    inside: Any = optimizer
    while isinstance(inner := getattr(inside, "optimizer", None), Optimizer):
        inside = inner
    if not isinstance(inside, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {type(inside).__name__}.")
    return inside


def require_attachable(
    model: nn.Module, raw: nn.Module, optimizer: Optimizer, method: SeededMethod
) -> None:
    """Raise an error if mitigations cannot act on this model at the steps of this optimizer.

    Args:
        model: The model as it was given.
        raw: The model without wrappers.
        optimizer: Its optimizer, without wrappers.
        method: The mitigations.

    Raises:
        TypeError: if the optimizer needs a closure.
        ValueError: if a mitigation cannot be attached, the optimizer has none of the model's parameters, or
            the model was compiled and called before.
    """
    for each in method.mitigations:
        if overrides(each, "network"):
            raise ValueError(
                f"{each.name} changes the architecture of a network before it is built, so that it cannot be"
                " attached: build the network with it."
            )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates its closure several times within a step, so that mitigations cannot act on its"
            " gradients and steps: use an optimizer whose step() needs no closure."
        )
    owned = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not any(parameter in owned for parameter in raw.parameters()):
        raise ValueError(
            "The optimizer has none of the model's parameters: give the optimizer that trains this model."
        )
    if _was_compiled_and_called(model, raw):
        raise ValueError(
            "The model was compiled and called before, or another of its class was, and hooks added now would"
            " never fire: attach the mitigations before the first call, or call torch.compiler.reset() first,"
            " so that models are compiled again."
        )


def _was_compiled_and_called(model: nn.Module, raw: nn.Module) -> bool:
    if "torch._dynamo" not in sys.modules:
        return False
    is_compiled = any("_orig_mod" in module._modules for module in model.modules()) or any(
        module._compiled_call_impl is not None for module in raw.modules()
    )
    if not is_compiled:
        return False
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list  # noqa: PLC0415  (the compiler)
    from torch._dynamo.external_utils import wrap_inline  # noqa: PLC0415

    # Compiled code belongs to a forward method; of torch's own modules, to a function around it.
    codes = [type(module).forward.__code__ for module in raw.modules()]
    codes.append(wrap_inline(lambda: None).__code__)
    return any(_debug_get_cache_entry_list(code) for code in codes)
