"""Distributions that the weights of an attached model are drawn from anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from plasticity.initialization import Distribution, Normal, initialization_of
from plasticity.mitigations.method import SeededMethod

logger = logging.getLogger("plasticity")


def attached_distributions(
    model: nn.Module, given: Mapping[str, Distribution], method: SeededMethod, *, is_new: bool
) -> dict[str, Distribution]:
    """Return the distribution of each parameter, and log which ones were measured.

    Args:
        model: Module without wrappers, before mitigations move its weights.
        given: Distributions by patterns of names, as in `attach`.
        method: The mitigations.
        is_new: Whether they begin. Otherwise they continue, and their state has what was measured.

    Raises:
        ValueError: if a pattern matches no parameter.
    """
    found = initialization_of(model)
    for pattern, distribution in given.items():
        matching = [name for name in found if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"initialize has the pattern {pattern!r}, which matches no parameter of the model: give one"
                f" that does, such as {next(iter(found))!r}."
            )
        found |= dict.fromkeys(matching, distribution)
    is_declared = callable(getattr(model, "initialization", None))
    measured = [
        f"{name} (standard deviation {each.deviation:.3g})"
        for name, each in found.items()
        if isinstance(each, Normal) and not any(fnmatchcase(name, pattern) for pattern in given)
    ]
    reads_units = any(each.reads_units for each in method.mitigations)
    if is_new and measured and not is_declared and reads_units:
        logger.info(
            "Units that are reset get normal weights of the spread that their layer has now: %s. Give"
            " initialize={pattern: distribution} for others.",
            ", ".join(measured),
        )
    return found
