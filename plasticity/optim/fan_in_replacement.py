"""Fan-ins of a parameter group after some of its parameters were replaced."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticity.optim.fan_in import weight_fan_in


def replaced_fan_in(
    fan_in: Sequence[int], before: Sequence[Tensor], after: Sequence[Tensor]
) -> list[int]:
    """Return the fan-ins after some parameters of a group were replaced, for example by a larger head.

    Args:
        fan_in: One fan-in for each parameter, as given when the group was added.
        before: The parameters that these fan-ins were given for.
        after: The current parameters, equally many.

    Returns:
        The given fan-ins where a unit has as many inputs as before. A weight whose number of inputs
        changed gets its own fan-in, and so do the vectors after it that had its predecessor's.

    Raises:
        ValueError: if the number of inputs of a weight changed whose fan-in was not that of its shape.
    """
    found = list(fan_in)
    changed: dict[int, int] = {}  # of the latest weight: old fan-in -> new fan-in
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if new.dim() < 2:
            found[index] = changed.get(found[index], found[index])
            continue
        changed = {}
        if new is old or new.shape[1:] == old.shape[1:]:
            continue
        if found[index] != weight_fan_in(old):
            raise ValueError(
                f"Parameter {index} of a group, of shape {tuple(old.shape)} and with the given fan-in"
                f" {found[index]}, was replaced by one of shape {tuple(new.shape)}, whose fan-in is not"
                " known: create a new optimizer, with parameter_groups(model, …)."
            )
        inputs = weight_fan_in(new)
        assert inputs is not None
        changed = {found[index]: inputs}
        found[index] = inputs
    return found
