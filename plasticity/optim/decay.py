"""Decay toward an anchor over lists of tensors, which every regularizer is made of.

Weight decay has no anchor (zero), syre a random one, L2-init the initial weights; the anisotropic
form multiplies each coordinate by its own factor. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def decay_direction(
    parameters: Sequence[Tensor],
    anchors: Sequence[Tensor] | None,
    factors: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Compute the gradient of |theta - anchor|^2 / 2, times the factors: D * (theta - anchor).

    Args:
        parameters: theta, a list of tensors of any shapes.
        anchors: One tensor for each parameter, or None for zero.
        factors: The diagonal of D, one tensor for each parameter, or None for one.

    Returns:
        New tensors, one for each parameter.
    """
    parameters = list(parameters)
    if anchors is None:
        direction = [parameter.clone() for parameter in parameters]
    else:
        direction = list(torch._foreach_sub(parameters, list(anchors)))
    if factors is not None:
        torch._foreach_mul_(direction, list(factors))
    return direction


def decayed_gradients(
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    anchors: Sequence[Tensor] | None,
    strength: float | Tensor,
    factors: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return gradients with the coupled decay: gradient + strength * D * (theta - anchor).

    Args:
        gradients: One tensor for each parameter; not changed.
        parameters: theta, a list of tensors.
        anchors: One tensor for each parameter, or None for zero.
        strength: Strength in the sense of torch's `weight_decay`: the penalty is strength / 2 *
            |theta - anchor|^2. A tensor of one element keeps a device-side scale on the device.
        factors: The diagonal of D, or None for one.

    Returns:
        New tensors, one for each parameter.
    """
    if isinstance(strength, Tensor) or factors is not None:
        direction = decay_direction(parameters, anchors, factors)
        torch._foreach_mul_(direction, strength)
        torch._foreach_add_(direction, list(gradients))
        return direction
    decayed = list(torch._foreach_add(list(gradients), list(parameters), alpha=strength))
    if anchors is not None:
        torch._foreach_add_(decayed, list(anchors), alpha=-strength)
    return decayed


def decay_toward_(
    parameters: Sequence[Tensor],
    anchors: Sequence[Tensor] | None,
    amount: float | Tensor,
    factors: Sequence[Tensor] | None = None,
) -> None:
    """Apply the decoupled decay in place: theta <- theta - amount * D * (theta - anchor).

    Args:
        parameters: theta, a list of tensors; changed.
        anchors: One tensor for each parameter, or None for zero.
        amount: Learning rate * strength.
        factors: The diagonal of D, or None for one.
    """
    parameters = list(parameters)
    if isinstance(amount, Tensor) or factors is not None:
        direction = decay_direction(parameters, anchors, factors)
        torch._foreach_mul_(direction, amount)
        torch._foreach_sub_(parameters, direction)
    elif anchors is None:
        # The same operation as in torch's AdamW, so that the two agree bit for bit.
        torch._foreach_mul_(parameters, 1 - amount)
    else:
        torch._foreach_lerp_(parameters, list(anchors), amount)
