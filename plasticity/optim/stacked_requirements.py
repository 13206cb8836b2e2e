"""Checks that optimizers and parameters can be stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.stacked_blocks import flat_parameters

BASES = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizer classes whose regularized forms can be stacked."""

# Options of these classes that change the formula, with the only value that is implemented here.
_FIXED_OPTIONS = {"maximize": False, "amsgrad": False, "nesterov": False, "dampening": 0}


def require_alike(optimizers: Sequence[RegularizedOptimizer]) -> None:
    """Raise an error unless these optimizers can be stepped as one.

    Raises:
        TypeError: if one is of a class that cannot be stacked, or has a tensor for a number.
        ValueError: if the list is empty, classes or groups differ, or an option changes the formula.
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
        if (kernel := optimizer.defaults["kernel"]) != "eager":
            raise ValueError(
                f"optimizers[{index}] has kernel={kernel!r}, and the stack has a step of its own: leave it"
                ' at "eager", or train this one alone.'
            )
        require_formula(optimizer, index)
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        expected = [len(group["params"]) for group in first.param_groups]
        if sizes != expected:
            raise ValueError(
                f"optimizers[{index}] has groups of {sizes} parameters, optimizers[0] of {expected}:"
                " give all the same groups."
            )


def require_formula(optimizer: RegularizedOptimizer, index: int) -> None:
    """Raise an error unless the step of an optimizer, the `index`-th, is the one implemented here.

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


def require_active(active: Tensor, num_stacked: int) -> None:
    """Raise an error unless `active` has one bool per stacked network. Does not wait for the device.

    Raises:
        TypeError: if it is not a tensor of bools.
        ValueError: if its shape is not (num_stacked,).
    """
    if not isinstance(active, Tensor) or active.dtype != torch.bool:
        found = active.dtype if isinstance(active, Tensor) else type(active).__name__
        raise TypeError(
            f"active must be a tensor of bools, one for each stacked network, not {found}: evaluate and"
            " differentiate a loss before the step, which takes no closure."
        )
    if active.shape != (num_stacked,):
        raise ValueError(
            f"active has shape {tuple(active.shape)}, ({num_stacked},) was expected: give one bool for"
            " each stacked network."
        )


def require_fitting(
    optimizers: Sequence[RegularizedOptimizer], parameters: Sequence[Tensor]
) -> None:
    """Raise an error unless the stacked parameters match those of the optimizers.

    Raises:
        TypeError: if one is not a tensor.
        ValueError: if their number, shapes, dtypes or strides do not fit.
    """
    num_stacked = len(optimizers)
    for position, stacked in enumerate(parameters):
        if not isinstance(stacked, Tensor):
            raise TypeError(
                f"parameters[{position}] must be a stacked tensor, not {stacked!r}: for a StackedNetworks"
                " called networks, give networks.parameters.values()."
            )
    for index, optimizer in enumerate(optimizers):
        own = flat_parameters(optimizer)
        if len(own) != len(parameters):
            raise ValueError(
                f"optimizers[{index}] has {len(own)} parameters, and {len(parameters)} stacked ones"
                " were given: give one for each, in the order of its groups."
            )
        for position, (parameter, stacked) in enumerate(zip(own, parameters, strict=True)):
            if stacked.shape != (num_stacked, *parameter.shape):
                raise ValueError(
                    f"parameters[{position}] has shape {tuple(stacked.shape)}, and for {num_stacked}"
                    f" stacked networks with {tuple(parameter.shape)} in optimizers[{index}],"
                    f" {(num_stacked, *parameter.shape)} was expected: give the parameters in the order"
                    " of the optimizers' groups."
                )
            if not stacked[0].is_contiguous():
                raise ValueError(
                    f"parameters[{position}] has strides {stacked.stride()}: the part of each stacked"
                    " network must be contiguous, as in StackedNetworks, or after .contiguous()."
                )
            if (
                stacked.dtype not in (torch.float32, torch.float64)
                or stacked.dtype != parameter.dtype
            ):
                raise ValueError(
                    f"parameters[{position}] is {stacked.dtype}, and {parameter.dtype} in"
                    f" optimizers[{index}]: both must be torch.float32, or both torch.float64."
                )
