"""Frictions of the coming episodes of many environments, computed on the host ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticity.tasks.control.friction import FrictionSchedule, SlipperyAntTask


class ComingTasks:
    """Task that the next episode of each environment gets if it begins now, on the device.

    All environments step at once, so that the host knows the step count of each without reading from the
    device: it computes the tasks when they change, and sends them ahead of the step that may need them.

    Args:
        schedules: One schedule for each environment.
        device: Device of the tensors.
    """

    def __init__(self, schedules: Sequence[FrictionSchedule], device: torch.device) -> None:
        self._kinds = list(dict.fromkeys(schedules))
        numbers = {schedule: number for number, schedule in enumerate(self._kinds)}
        self._kind = np.array([numbers[schedule] for schedule in schedules])
        # A constant friction never changes.
        every = [schedule.change_every or np.iinfo(np.int64).max for schedule in self._kinds]
        self._every = np.array(every)[self._kind]
        self._known: dict[tuple[int, int], SlipperyAntTask] = {}
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
        index = steps // self._every
        needed = np.unique(np.stack([self._kind, index]), axis=1).T.tolist()
        # Earlier tasks are dropped, as streams only go forward.
        self._known = {
            (kind, i): self._known.get((kind, i)) or self._task(self._kinds[kind], i)
            for kind, i in needed
        }
        found = [
            self._known[pair] for pair in zip(self._kind.tolist(), index.tolist(), strict=True)
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
    def _task(schedule: FrictionSchedule, index: int) -> SlipperyAntTask:
        return schedule.task_at(index * (schedule.change_every or 0))

    @staticmethod
    def _copy(target: Tensor, source: Tensor) -> None:
        # Each copy has its own page-locked memory, which torch keeps until the copy is done.
        if target.is_cuda:
            source = source.pin_memory()
        target.copy_(source, non_blocking=True)
