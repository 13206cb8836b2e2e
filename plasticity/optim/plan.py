"""Choice of the form in which a parameter group is decayed, and of the part that the base does itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity.optim.base_decay import BaseDecay
from plasticity.optim.fan_in import NO_FAN_IN
from plasticity.optim.targets import has_zero_anchor

DecayForm = Literal["none", "base", "shifted", "coupled", "decoupled"]
"""Form of a group's decay. "none": there is none. "base": the base's own weight decay is all of it.
"shifted": the base does strength * theta, and strength * anchor is subtracted from the gradient.
"coupled": all of it is added to the gradient. "decoupled": the weights are moved before the step."""

BY_BASE: tuple[DecayForm, ...] = ("base", "shifted")
"""Forms in which the base's weight decay has the group's strength; it is 0 in all others."""


def is_active(group: Mapping[str, Any]) -> bool:
    """Return whether a group is regularized at all."""
    return bool(group["regularizer"] != "none" and group["strength"] != 0)


def decay_form(
    group: Mapping[str, Any],
    base: type[Optimizer],
    base_decay: BaseDecay,
    *,
    in_kernels: bool = False,
    is_scaled: bool = False,
) -> DecayForm:
    """Choose the form of a group's decay: the fastest one with the result that its settings ask for.

    - With a zero anchor the base's weight decay is the same decay, bit for bit, and costs nothing.
    - With another anchor, torch's optimizers still do the part toward zero inside their (fused) kernel. What
      remains is one pass over gradients and anchors before the step and one after it, both in place. Adding
      the whole decay takes two passes before the step, into new memory.
    - Plain SGD is linear in the gradient, so that the coupled and the decoupled step are the same, and the
      decoupled one has nothing to restore. But a small decay of the weights alone is lost to rounding,
      where the sum of gradient and decay is not.

    Fused steps of a CNN and of an MLP with 9.6 million parameters, on one core, in units of the step without
    decay:

        SGD with momentum, syre    shifted 2.5, 2.3     coupled 3.3, 3.8
        plain SGD, syre            decoupled 2.0, 2.1   shifted 2.7, 2.8   coupled 3.3, 2.9
        Adam, syre                 shifted 1.6, 1.9     coupled 1.9, 2.2
        Adam, weight decay         base 1.0, 1.0        coupled 1.6, 1.6

    Args:
        group: Group of a regularized optimizer, complete.
        base: The optimizer class that it extends.
        base_decay: Form of the base's own weight decay for this group.
        in_kernels: Whether Triton kernels apply the decay, which do both parts in one pass.
        is_scaled: Whether the gradients are scaled (`GradScaler` with a fused base), and a shift would
            have to be scaled too, on the device.
    """
    if not is_active(group):
        return "none"
    follows_base = group["decoupled"] is None
    decoupled = base_decay == "decoupled" if follows_base else group["decoupled"]
    form: DecayForm = "decoupled" if decoupled else "coupled"
    base_does_it = "weight_decay" in group and (
        base_decay == form or (follows_base and base_decay == "other")
    )
    if base_does_it and has_zero_anchor(group):
        return "base"
    if form == "coupled" and _commutes(group, base):
        return "decoupled"
    can_be_shifted = (
        base.__module__.startswith("torch.optim")  # whose decay is known
        and not in_kernels
        and not is_scaled
        and group["anisotropy"] == 0
        and (group["regularizer"] != "syre" or NO_FAN_IN not in group["fan_in"])
    )
    return "shifted" if base_does_it and form == "coupled" and can_be_shifted else form


def _commutes(group: Mapping[str, Any], base: type[Optimizer]) -> bool:
    """Return whether it makes no difference if the decay or the step comes first, rounding included."""
    if base is not torch.optim.SGD or group["momentum"] != 0:
        return False
    amount = group["lr"] * group["strength"]
    dtypes = {p.dtype for p in group["params"]}  # a group may be empty
    return not isinstance(amount, Tensor) and all(exceeds_rounding(amount, each) for each in dtypes)


def exceeds_rounding(amount: float, dtype: torch.dtype) -> bool:
    """Return whether weights can be multiplied by 1 - amount without much of the amount lost to rounding."""
    return amount > 32 * torch.finfo(dtype).eps


def require_known_form(
    group: Mapping[str, Any], base: type[Optimizer], base_decay: BaseDecay
) -> None:
    """Raise an error if it is not known how the decay of an active group should act with this base.

    Raises:
        ValueError: if it is not; the message says what to give.
    """
    by_base_alone = group["decoupled"] is None and has_zero_anchor(group)
    if group["decoupled"] is False or by_base_alone:
        return
    if base_decay == "other":
        raise ValueError(
            f"{base.__name__}'s own weight decay is neither added to the gradient nor a"
            " factor (1 - lr * weight_decay) before the step, as far as a few steps of it show:"
            f" regularizer={group['regularizer']!r} with decoupled={group['decoupled']!r} would"
            " be another kind of decay. Give decoupled=False, which adds it to the gradient"
            ' (for "weight-decay" too, if you compare the two).'
        )
    if group["decoupled"] and not isinstance(group.get("lr"), (int, float, Tensor)):
        raise ValueError(
            f"decoupled=True scales the decay by the learning rate, and {base.__name__} has"
            f" lr={group.get('lr')!r}: give decoupled=False."
        )
