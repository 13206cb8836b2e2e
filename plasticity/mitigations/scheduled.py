"""Mitigations that act between tasks, after so many optimizer steps, or both: their base."""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from plasticity.checks import require_bool, require_integer
from plasticity.mitigations.base import Mitigation
from plasticity.mitigations.context import Context


@dataclass(frozen=True, kw_only=True)
class Scheduled(Mitigation):
    """Mitigation whose single action is due between tasks, after every so many steps, or both.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or the action is never due.
    """

    reads_gradients: ClassVar[bool] = False

    at_tasks: bool = True
    """Whether to act between two tasks."""

    every: int | None = None
    """Optimizer steps between two actions. None: steps do not matter."""

    def __post_init__(self) -> None:
        require_bool("at_tasks", self.at_tasks)
        if self.every is not None:
            require_integer("every", self.every, minimum=1)
        elif not self.at_tasks:
            raise ValueError(
                f"{self.name} would never act with at_tasks=False and every=None: set one of the two."
            )

    @property
    def cadence(self) -> int:
        """Optimizer steps from one call of `after_step` to the next."""
        return self.every or sys.maxsize

    @abstractmethod
    def act(self, context: Context) -> None:
        """Act on one network between tasks, or on all stacked ones after a step."""

    def after_step(self, context: Context) -> None:
        """Act, as `every` steps have passed."""
        self.act(context)

    def boundary(self, context: Context) -> None:
        """Act, unless only steps matter."""
        if self.at_tasks:
            self.act(context)
