"""Recent inputs of a policy, spread evenly over the latest steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["RecentInputs"]


class RecentInputs:
    """Buffer of recent policy inputs: bounded in memory, always enough for a batch, without random sampling.

    Until as many steps as the window have been made, the entries are spread over all steps: when the buffer
    is full, it drops every second entry and from then on keeps new ones half as often. Afterwards, the
    window moves along with the steps.

    Args:
        size: Number of rows in a `batch`.
        window: Environment steps, summed over all environments, over which the rows are spread. If it is
            smaller than `size`, the latest `size` rows are taken.
        num_envs: Number of rows in each entry.
    """

    def __init__(self, size: int, window: int, num_envs: int) -> None:
        self.size = size
        self.num_envs = num_envs
        self._needed = math.ceil(size / num_envs)
        # A power of two, so that the entries kept at a larger stride are among those kept before.
        self._last_stride: int = 2 ** int(math.log2(max(1, window // (num_envs * self._needed))))
        self._longest = max(self._needed, window // (num_envs * self._last_stride))
        self._stride = 1
        self._calls = 0
        self._entries: deque[tuple[Any, ...]] = deque()

    def wants_next(self) -> bool:
        """Count a step, and return whether its inputs should be passed to `keep`."""
        self._calls += 1
        return (self._calls - 1) % self._stride == 0

    def keep(self, inputs: tuple[Any, ...]) -> None:
        """Keep the inputs of the latest counted step.

        Args:
            inputs: Tensors, or dictionaries of tensors, with a row per environment.
        """
        if self._stride < self._last_stride and len(self._entries) == 2 * self._needed:
            self._entries = deque(list(self._entries)[::2])
            self._stride *= 2
        self._entries.append(inputs)
        if self._stride == self._last_stride:
            while len(self._entries) > self._longest:
                self._entries.popleft()

    def complete(self) -> bool:
        """Return whether there are enough rows for a batch."""
        return len(self._entries) >= self._needed

    def batch(self) -> tuple[Any, ...]:
        """Return `size` rows of the inputs, joined along the first axis, from the oldest to the newest."""
        rows = self.num_envs * len(self._entries)
        chosen = torch.linspace(0, rows - 1, self.size, dtype=torch.float64).round().long()
        return tuple(_rows(part, chosen) for part in zip(*self._entries, strict=True))


def _rows(parts: Sequence[Any], chosen: torch.Tensor) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: _rows([part[key] for part in parts], chosen) for key in parts[0]}
    joined = torch.cat(list(parts))
    return joined[chosen.to(joined.device)]
