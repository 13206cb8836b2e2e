"""Data orders of one network or of stacked ones, drawn ahead on the CPU while a device works."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from plasticity.seeds import child_seed

_Key = tuple[int, int, int]


class DataOrders:
    """Data orders, each a pure function of its seed, the task, the epoch and the number of examples.

    Permutations are drawn on the CPU, so that they are the same on every device. While a device works, a
    thread draws the next ones: torch releases Python's lock while it draws.

    Args:
        seeds: Seed of each network's data order.
        lead: Leading dimensions of the data orders: () for one network, (R,) for R stacked ones.
        device: Device of the data orders.
    """

    def __init__(self, seeds: Sequence[int], lead: tuple[int, ...], device: torch.device) -> None:
        self._seeds = tuple(seeds)
        self._lead = lead
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data-orders")
        self._ahead: tuple[_Key, Future[Tensor]] | None = None

    def get(self, task: int, epoch: int, num_train: int) -> Tensor:
        """Return the data orders of one epoch; they are drawn now if `draw_ahead` was called for others.

        Args:
            task: Index of the task.
            epoch: Epoch within the task, from 0.
            num_train: Number of training examples.

        Returns:
            Data orders on the device, sent in one copy that the host does not wait for. Shape:
            (..., num_train).
        """
        key = (task, epoch, num_train)
        drawn = self._ahead[1].result() if self._ahead and self._ahead[0] == key else None
        self._ahead = None
        data_orders = self._draw(key, self._memory(num_train)) if drawn is None else drawn
        return data_orders.to(self._device, non_blocking=True)

    def draw_ahead(self, task: int, epoch: int, num_train: int) -> None:
        """Draw the data orders of the next call of `get` in the background. Arguments as in `get`.

        On a CPU this does nothing: a run uses one core.
        """
        key = (task, epoch, num_train)
        if self._device.type != "cpu" and (self._ahead is None or self._ahead[0] != key):
            # Allocated here, because pinning memory in a thread breaks a capture running in another.
            self._ahead = (key, self._thread.submit(self._draw, key, self._memory(num_train)))

    def _memory(self, num_train: int) -> Tensor:
        # A copy to a GPU overlaps with its work only from pinned memory.
        return torch.empty(
            *self._lead, num_train, dtype=torch.int64, pin_memory=self._device.type == "cuda"
        )

    def _draw(self, key: _Key, data_orders: Tensor) -> Tensor:
        """Fill `data_orders` and return it. Nothing in here uses a GPU."""
        task, epoch, num_train = key
        rows = data_orders.view(-1, num_train)
        for row, seed in zip(rows, self._seeds, strict=True):
            generator = torch.Generator().manual_seed(child_seed(seed, f"{task}/{epoch}"))
            torch.randperm(num_train, generator=generator, out=row)
        return data_orders
