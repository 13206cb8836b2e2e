"""Which optimizers can be stacked, and what an error says of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.stacked_blocks import flat_parameters

BASES = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""The optimizer classes whose regularized forms can be stacked."""

# Options of those that change the formula, and the only value that is implemented here.
_FIXED_OPTIONS = {"maximize": False, "amsgrad": False, "nesterov": False, "dampening": 0}


def require_alike(optimizers: Sequence[RegularizedOptimizer]) -> None:
    """Refuse optimizers that cannot be stepped as one.

    Raises:
        TypeError: if one is of no class that can be stacked, or has a tensor for a number.
        ValueError: if there is none, their classes or groups differ, or an option changes the formula.
    """
    if not optimizers:
        raise ValueError("StackedOptimizer needs at least one optimizer: an empty list was given.")
    first = optimizers[0]
    names = ", ".join(f"regularized({base.__name__})" for base in BASES)
    for index, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, RegularizedOptimizer) or optimizer.base not in BASES:
            raise TypeError(
                f"optimizers[{index}] is a {type(optimizer).__name__}, which cannot be stacked:"
                f" make it with {names}."
            )
        if type(optimizer) is not type(first):
            raise ValueError(
                f"optimizers[{index}] is a {type(optimizer).__name__}, optimizers[0] a"
                f" {type(first).__name__}: all must be of one class. Make a stack for each."
            )
        require_formula(optimizer, index)
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        expected = [len(group["params"]) for group in first.param_groups]
        if sizes != expected:
            raise ValueError(
                f"optimizers[{index}] has groups of {sizes} parameters, optimizers[0] of {expected}:"
                " they must be equal."
            )


def require_formula(optimizer: RegularizedOptimizer, index: int) -> None:
    """Refuse an optimizer, the `index`-th, whose step is not the one that is implemented.

    Raises:
        TypeError: if a rate or beta is a tensor.
        ValueError: if an option changes the formula.
    """
    for group in optimizer.param_groups:
        for option, value in _FIXED_OPTIONS.items():
            if group.get(option, value) != value:
                raise ValueError(
                    f"optimizers[{index}] has {option}={group[option]!r}, which cannot be stacked:"
                    f" leave it at {value!r}, or train this one alone."
                )
        for name, number in (("lr", group["lr"]), *[("betas", b) for b in group.get("betas", ())]):
            if isinstance(number, Tensor):
                raise TypeError(
                    f"optimizers[{index}] has a tensor in {name}: give numbers, which the stack keeps"
                    " on the device itself (set_learning_rate changes them)."
                )


def require_active(active: Tensor, replicas: int) -> None:
    """Refuse what does not say of each replica whether it takes a step. Does not wait for the device.

    Raises:
        TypeError: if it is no tensor of bools.
        ValueError: if its shape is not (replicas,).
    """
    if not isinstance(active, Tensor) or active.dtype != torch.bool:
        found = active.dtype if isinstance(active, Tensor) else type(active).__name__
        raise TypeError(
            f"active must be a tensor of bools, one for each replica, not {found}; a loss is evaluated"
            " and differentiated before the step, as there are no closures."
        )
    if active.shape != (replicas,):
        raise ValueError(
            f"active has shape {tuple(active.shape)}, ({replicas},) was expected: one bool for each replica."
        )


def require_fitting(
    optimizers: Sequence[RegularizedOptimizer], parameters: Sequence[Tensor]
) -> None:
    """Refuse stacked parameters that are not those of the optimizers.

    Raises:
        TypeError: if one is no tensor.
        ValueError: if their number, shapes, dtypes or strides do not fit.
    """
    replicas = len(optimizers)
    for place, stacked in enumerate(parameters):
        if not isinstance(stacked, Tensor):
            raise TypeError(
                f"parameters[{place}] must be a stacked tensor, not {stacked!r}: of a StackedNetworks, give"
                " replicas.parameters.values()."
            )
    for index, optimizer in enumerate(optimizers):
        own = flat_parameters(optimizer)
        if len(own) != len(parameters):
            raise ValueError(
                f"optimizers[{index}] has {len(own)} parameters, and {len(parameters)} stacked ones"
                " were given: give one for each, in the order of its groups."
            )
        for place, (parameter, stacked) in enumerate(zip(own, parameters, strict=True)):
            if stacked.shape != (replicas, *parameter.shape):
                raise ValueError(
                    f"parameters[{place}] has shape {tuple(stacked.shape)}; of {replicas} replicas and"
                    f" optimizers[{index}]'s {tuple(parameter.shape)}, {(replicas, *parameter.shape)}"
                    " was expected."
                )
            if not stacked[0].is_contiguous():
                raise ValueError(
                    f"parameters[{place}] has the strides {stacked.stride()}: each replica's part must be"
                    " contiguous, as in StackedNetworks, or after .contiguous()."
                )
            if (
                stacked.dtype not in (torch.float32, torch.float64)
                or stacked.dtype != parameter.dtype
            ):
                raise ValueError(
                    f"parameters[{place}] is {stacked.dtype}, and {parameter.dtype} in"
                    f" optimizers[{index}]: both must be torch.float32, or both torch.float64."
                )
