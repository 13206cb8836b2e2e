"""Fan-ins of a parameter group in which parameters took the place of others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticity.optim.fan_in import weight_fan_in


def replaced_fan_in(
    fan_in: Sequence[int], before: Sequence[Tensor], after: Sequence[Tensor]
) -> list[int]:
    """Fan-ins after some parameters of a group were replaced, as by a head that grew.

    Args:
        fan_in: One for each parameter, as given when the group was added.
        before: The parameters that they were given for.
        after: The parameters of now, as many.

    Returns:
        The given ones, where the inputs of a unit are as many as before. A weight with other inputs has
        its own fan-in, and so have the vectors after it that had its predecessor's.

    Raises:
        ValueError: if a weight with other inputs had a fan-in that is not that of its shape.
    """
    found = list(fan_in)
    changed: dict[int, int] = {}  # of the latest weight: its fan-in before, and now
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if new.dim() < 2:
            found[place] = changed.get(found[place], found[place])
            continue
        changed = {}
        if new is old or new.shape[1:] == old.shape[1:]:
            continue
        if found[place] != weight_fan_in(old):
            raise ValueError(
                f"Parameter {place} of a group, of shape {tuple(old.shape)} and with the given fan-in"
                f" {found[place]}, was replaced by one of shape {tuple(new.shape)}, whose fan-in is not"
                " known: make the optimizer again, with parameter_groups(model, …)."
            )
        inputs = weight_fan_in(new)
        assert inputs is not None
        changed = {found[place]: inputs}
        found[place] = inputs
    return found
