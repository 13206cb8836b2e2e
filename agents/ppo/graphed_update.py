"""PPO's whole update as one CUDA graph.

The published update is 320 optimizer steps on small networks, each of about fifty tiny kernels: launching
them takes the host longer than the GPU needs to run them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction
from plasticity.agents.ppo.batch import Batch


class GraphedUpdate:
    """Captured form of an update.

    Args:
        update: Takes a batch and data orders and returns statistics; as in `GraphedFunction`.
        device: Device of both.
        constants: As in `GraphedFunction`.

    Raises:
        ValueError: if the device is not CUDA.
    """

    def __init__(
        self,
        update: Callable[[Batch, Tensor], dict[str, Tensor]],
        device: torch.device,
        constants: Callable[[], Hashable] = tuple,
    ) -> None:
        def run(data_orders: Tensor, *tensors: Tensor) -> dict[str, Tensor]:
            return update(Batch(*tensors), data_orders)

        self._graphed = GraphedFunction(run, device=device, constants=constants)

    def __call__(self, batch: Batch, data_orders: Tensor) -> dict[str, Tensor]:
        """Run the update and return its statistics, which the next one overwrites."""
        tensors = [getattr(batch, field.name) for field in fields(batch)]
        statistics: dict[str, Tensor] = self._graphed(data_orders, *tensors)
        return statistics

    def forget(self) -> None:
        """Drop all captures. Call this after loading a state, which may have replaced tensors."""
        self._graphed.forget()
