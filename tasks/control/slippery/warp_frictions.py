"""Frictions of the coming episodes of many environments, computed on the host ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.tasks.control.slippery.friction import FrictionSchedule


class ComingTasks:
    """Task that the next episode of each environment gets if it begins now, on the device.

    All environments step at once, so that the host knows the step count of each without reading from the
    device: it computes the tasks when they change, and sends them ahead of the step that may need them.

    Args:
        schedules: One schedule for each environment.
        device: Device of the tensors.
    """

    def __init__(self, schedules: Sequence[FrictionSchedule], device: torch.device) -> None:
        self._schedules = tuple(schedules)
        # A constant friction never changes.
        never = np.iinfo(np.int64).max
        self._every = np.array([schedule.change_every or never for schedule in self._schedules])
        self.tasks = torch.zeros(len(schedules), dtype=torch.int64, device=device)
        """Indices in the streams. Shape: (num_envs,)."""
        self.frictions = torch.zeros(len(schedules), dtype=torch.float32, device=device)
        """Coefficients of friction. Shape: (num_envs,)."""
        self.restart(np.zeros(len(schedules), np.int64))

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps that each environment has made. Shape: (num_envs,)."""
        return self._first + self._made

    def restart(self, steps: NDArray[np.int64]) -> None:
        """Continue from `steps` steps of each environment."""
        self._first = steps.astype(np.int64)  # a copy
        self._made = 0
        self._send()

    def advance(self) -> None:
        """Count one more step of every environment; call it before the step."""
        self._made += 1
        if self._made == self._next_change:
            self._send()

    def after(self, steps: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return tasks and frictions after `steps` steps of each environment, on the host."""
        found = [
            schedule.task_at(own)
            for schedule, own in zip(self._schedules, steps.tolist(), strict=True)
        ]
        return (
            torch.tensor([task.index for task in found], dtype=torch.int64, device="cpu"),
            torch.tensor([task.friction for task in found], dtype=torch.float32, device="cpu"),
        )

    def _send(self) -> None:
        steps = self.steps
        self._next_change = self._made + int(np.min(self._every - steps % self._every))
        tasks, frictions = self.after(steps)
        self._copy(self.tasks, tasks)
        self._copy(self.frictions, frictions)

    @staticmethod
    def _copy(target: Tensor, source: Tensor) -> None:
        # Each copy has its own page-locked memory, which torch keeps until the copy is done.
        if target.is_cuda:
            source = source.pin_memory()
        target.copy_(source, non_blocking=True)
