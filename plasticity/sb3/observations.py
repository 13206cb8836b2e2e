"""The newest inputs of a policy, spread evenly over the newest steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["RecentInputs"]


class RecentInputs:
    """A set of the inputs that a policy had lately: enough at any time, few in memory, none drawn at random.

    As long as fewer steps than the window have been made, it spreads over all of them: when it is full, it
    forgets every second entry, and keeps new ones half as often. From then on it moves along.

    Args:
        size: Rows of a `batch`.
        window: Environment steps, of all environments together, over which the rows are spread. Where it
            is smaller than `size`, the newest `size` rows are taken.
        num_envs: Rows that each entry brings.
    """

    def __init__(self, size: int, window: int, num_envs: int) -> None:
        self.size = size
        self.num_envs = num_envs
        self._needed = math.ceil(size / num_envs)
        # Powers of two, so that what is kept more sparsely is among what was kept before.
        self._last_stride: int = 2 ** int(math.log2(max(1, window // (num_envs * self._needed))))
        self._longest = max(self._needed, window // (num_envs * self._last_stride))
        self._stride = 1
        self._calls = 0
        self._entries: deque[tuple[Any, ...]] = deque()

    def wants_next(self) -> bool:
        """Count a step; whether its inputs are to be kept, with `keep`."""
        self._calls += 1
        return (self._calls - 1) % self._stride == 0

    def keep(self, inputs: tuple[Any, ...]) -> None:
        """Keep the inputs of the step that was counted last.

        Args:
            inputs: Tensors, or dictionaries of them, with a row per environment.
        """
        if self._stride < self._last_stride and len(self._entries) == 2 * self._needed:
            self._entries = deque(list(self._entries)[::2])
            self._stride *= 2
        self._entries.append(inputs)
        if self._stride == self._last_stride:
            while len(self._entries) > self._longest:
                self._entries.popleft()

    def complete(self) -> bool:
        """Whether there are enough rows for a batch."""
        return len(self._entries) >= self._needed

    def batch(self) -> tuple[Any, ...]:
        """The inputs joined along their first axis, `size` rows of them, from the oldest to the newest."""
        rows = self.num_envs * len(self._entries)
        chosen = torch.linspace(0, rows - 1, self.size, dtype=torch.float64).round().long()
        return tuple(_rows(part, chosen) for part in zip(*self._entries, strict=True))


def _rows(parts: Sequence[Any], chosen: torch.Tensor) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: _rows([part[key] for part in parts], chosen) for key in parts[0]}
    joined = torch.cat(list(parts))
    return joined[chosen.to(joined.device)]
