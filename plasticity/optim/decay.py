"""Decay toward an anchor over lists of tensors, which every regularizer is made of.

Weight decay has no anchor (zero), syre a random one, L2-init the initial weights; the anisotropic
form multiplies each coordinate by its own factor. A list holds the parameters of one network, of any
shapes, or those of R stacked networks, of shape (R, ...), each with its own strength. Nothing here waits
for the device.

A strength is a number; a tensor without dimensions, which keeps a device-side scale on the device; or one
number for each stacked network, in a tensor that broadcasts against each parameter, such as (R, 1).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]
"""List of tensors, as torch's operations over lists take it."""


def decay_direction(
    parameters: Tensors,
    anchors: Tensors | None,
    factors: Tensors | None = None,
) -> Tensors:
    """Compute the gradient of |theta - anchor|^2 / 2, times the factors: D * (theta - anchor).

    Args:
        parameters: theta, a list of tensors of any shapes.
        anchors: One tensor for each parameter, or None for zero.
        factors: The diagonal of D, one tensor for each parameter, or None for one.

    Returns:
        One tensor for each parameter; the parameters themselves if there is neither anchor nor factor.
    """
    direction = parameters if anchors is None else torch._foreach_sub(parameters, anchors)
    return direction if factors is None else torch._foreach_mul(direction, factors)


def decayed_gradients(
    gradients: Tensors,
    parameters: Tensors,
    anchors: Tensors | None,
    strength: float | Tensor,
    factors: Tensors | None = None,
) -> list[Tensor]:
    """Return gradients with the coupled decay: gradient + strength * D * (theta - anchor).

    Args:
        gradients: One tensor for each parameter; not changed.
        parameters: theta, a list of tensors.
        anchors: One tensor for each parameter, or None for zero.
        strength: Strength in the sense of torch's `weight_decay`: the penalty is strength / 2 *
            |theta - anchor|^2.
        factors: The diagonal of D, or None for one.

    Returns:
        New tensors, one for each parameter.
    """
    if factors is None and not isinstance(strength, Tensor):
        decayed = list(torch._foreach_add(gradients, parameters, alpha=strength))
        if anchors is not None:
            shift_gradients_(decayed, anchors, strength)
        return decayed
    direction = decay_direction(parameters, anchors, factors)
    if _is_per_network(strength):
        return list(torch._foreach_addcmul(gradients, direction, [strength] * len(direction)))
    decayed = _scaled(direction, strength)
    torch._foreach_add_(decayed, gradients)
    return decayed


def shifted_gradients(gradients: Tensors, anchors: Tensors, strength: float) -> list[Tensor]:
    """Return gradients with the anchors' part of the coupled decay: gradient - strength * anchor.

    The other part, strength * theta, is the weight decay of torch's optimizers.

    Args:
        gradients: One tensor for each parameter; not changed.
        anchors: One tensor for each parameter.
        strength: Strength, as in `decayed_gradients`.

    Returns:
        New tensors, one for each parameter.
    """
    return list(torch._foreach_add(gradients, anchors, alpha=-strength))


def shift_gradients_(gradients: Tensors, anchors: Tensors, strength: float) -> None:
    """Apply `shifted_gradients` in place. The negative strength undoes it, to rounding."""
    torch._foreach_add_(gradients, anchors, alpha=-strength)


def decay_toward_(
    parameters: Tensors,
    anchors: Tensors | None,
    amount: float | Tensor,
    factors: Tensors | None = None,
) -> None:
    """Apply the decoupled decay in place: theta <- theta - amount * D * (theta - anchor).

    Args:
        parameters: theta, a list of tensors; changed.
        anchors: One tensor for each parameter, or None for zero.
        amount: Learning rate * strength.
        factors: The diagonal of D, or None for one.
    """
    if factors is None and not isinstance(amount, Tensor):
        if anchors is None:
            # The same operation as in torch's AdamW, so that the two agree bit for bit.
            torch._foreach_mul_(parameters, 1 - amount)
        else:
            torch._foreach_lerp_(parameters, anchors, amount)
        return
    direction = decay_direction(parameters, anchors, factors)
    if _is_per_network(amount):
        torch._foreach_addcmul_(parameters, direction, [amount] * len(direction), value=-1)
    else:
        torch._foreach_sub_(parameters, _scaled(direction, amount))


def _scaled(tensors: Tensors, scale: Any) -> list[Tensor]:
    """Return tensors times a number, or times a tensor without dimensions."""
    return list(torch._foreach_mul(tensors, scale))


def _is_per_network(strength: float | Tensor) -> TypeGuard[Tensor]:
    # One number for a whole list goes into one operation over it; one operation over R numbers and a list
    # of tensors does not exist, and a stack is one tensor: there, one pass over memory counts more.
    return isinstance(strength, Tensor) and strength.dim() > 0
