"""Schedule of continual backprop: when units of a layer are replaced, and how many.

Neither depends on which units these are: whichever is replaced was old, and is new afterwards. The schedule
is therefore worked out ahead, on the host, and a step without a replacement asks the device for nothing.

Its state has leading dimensions `...`: none for one network, (R,) for R stacked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HORIZON = 1000
"""Steps that are looked ahead at once."""

_NEVER = 2**62

Draw = Callable[[int], float]
"""Function that returns a number from 0 to 1 for a step."""


@dataclass(frozen=True)
class Replacements:
    """Rule by which a layer's units are replaced."""

    rate: float
    """Share of the old units that is replaced in a step."""

    maturity: int
    """Age in steps that a unit must exceed to be old."""

    draw: Draw | None = None
    """Function that decides whether a part of a unit counts as one. None: parts are added up."""

    def following(self, born: Sequence[int], rest: float, step: int) -> tuple[int, int, float]:
        """Return the next step with a replacement, the number of units, and the part that is left then.

        Within the horizon; if there is none, its last step, and a number of 0.

        Args:
            born: Steps at which the units were new, in ascending order.
            rest: Part of a unit that is left after `step`.
            step: The latest step.
        """
        old = 0
        for each in range(step + 1, step + HORIZON + 1):
            while old < len(born) and each - born[old] > self.maturity:
                old += 1
            expected = self.rate * old
            if self.draw is None:
                rest += expected
                number = int(rest)
                rest -= number
            else:
                number = int(expected)
                number += expected > number and self.draw(each) < expected - number
            if number:
                return each, number, rest
        return step + HORIZON, 0, rest


def initial_schedule(sizes: Sequence[int], lead: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the state at the beginning, on the host, when all units are new and nothing was looked ahead.

    Args:
        sizes: Number of units of each layer.
        lead: Leading dimensions.

    Returns:
        Tensors by name: `schedule/due`, the next step that matters, `schedule/number` of units that are
        replaced then, and `schedule/rest` after that, (..., layers); and `schedule/born`, the steps at which
        units were new, (..., layers, units of the largest).
    """
    shape = (*lead, len(sizes))
    born = torch.zeros(*shape, max(sizes), dtype=torch.int64)
    for place, size in enumerate(sizes):
        born[..., place, size:] = _NEVER
    return {
        "schedule/due": torch.zeros(shape, dtype=torch.int64),
        "schedule/number": torch.zeros(shape, dtype=torch.int64),
        "schedule/rest": torch.zeros(shape, dtype=torch.float64),
        "schedule/born": born,
    }


def next_due(state: Mapping[str, Tensor]) -> int:
    """Return the next step at which `take_due` has something to do, for any network."""
    return int(_on_host(state["schedule/due"]).min())


def take_due(state: Mapping[str, Tensor], step: int, rules: Sequence[Replacements]) -> list[int]:
    """Return how many units of each layer of one network are replaced after a step, and look ahead.

    Args:
        state: State of this network, changed in place. Its leading dimensions are ().
        step: The step.
        rules: Rule of each layer.
    """
    found = [0] * len(rules)
    for place, rule in enumerate(rules):
        due = int(_on_host(state["schedule/due"])[place])
        while due <= step:
            number = int(_on_host(state["schedule/number"])[place])
            before = _on_host(state["schedule/born"])[place].tolist()
            born = sorted([*before[number:], *[due] * number])
            rest = float(_on_host(state["schedule/rest"])[place])
            found[place] += number
            due, number, rest = rule.following(born, rest, due)
            state["schedule/due"][place] = due
            state["schedule/number"][place] = number
            state["schedule/rest"][place] = rest
            state["schedule/born"][place] = torch.tensor(born)
    return found


def _on_host(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array that shares its memory; it fails for one on a device."""
    return np.from_dlpack(tensor)
