"""Data orders of many replicas, drawn ahead on the CPU while the device works."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from plasticity.seeds import child_seed

_Key = tuple[int, int, int]


class StackedDataOrders:
    """Orders of the training examples, replica for replica those that `Classifier` draws alone.

    A permutation is drawn on the CPU, so that it is the same on every device. The next one is drawn by
    a thread meanwhile, as torch lets others run while it draws.

    Args:
        seeds: The `data_order_seed` of each replica.
        device: Of the orders.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._seeds = tuple(seeds)
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data-orders")
        self._ahead: tuple[_Key, Future[Tensor]] | None = None

    def get(self, task: int, epoch: int, num_train: int) -> Tensor:
        """The orders of one epoch; drawn now, if `draw_ahead` was asked for others.

        Args:
            task: Index of the task.
            epoch: Of the task, from 0.
            num_train: Examples in it.

        Returns:
            On the device, to which they go in one copy that the host does not wait for. Shape:
            (R, num_train).
        """
        key = (task, epoch, num_train)
        drawn = self._ahead[1].result() if self._ahead and self._ahead[0] == key else None
        self._ahead = None
        orders = self._draw(key, self._memory(num_train)) if drawn is None else drawn
        return orders.to(self._device, non_blocking=True)

    def draw_ahead(self, task: int, epoch: int, num_train: int) -> None:
        """Have the orders drawn that `get` will probably be asked for next; as `get`."""
        key = (task, epoch, num_train)
        if self._ahead is None or self._ahead[0] != key:
            # The memory is taken here: a thread that pins some breaks a capture under way in another.
            self._ahead = (key, self._thread.submit(self._draw, key, self._memory(num_train)))

    def _memory(self, num_train: int) -> Tensor:
        # Only from pinned memory does a copy to a GPU run beside its work.
        return torch.empty(
            len(self._seeds), num_train, dtype=torch.int64, pin_memory=self._device.type == "cuda"
        )

    def _draw(self, key: _Key, orders: Tensor) -> Tensor:
        """Fill `orders`; nothing in here knows of a GPU."""
        task, epoch, num_train = key
        for row, seed in zip(orders, self._seeds, strict=True):
            generator = torch.Generator().manual_seed(child_seed(seed, f"{task}/{epoch}"))
            torch.randperm(num_train, generator=generator, out=row)
        return orders
