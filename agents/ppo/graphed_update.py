"""PPO's whole update as one CUDA graph.

The published update is 320 optimizer steps on small networks, each of some fifty tiny kernels: their
launches take the host longer than the GPU takes for the work.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction, optimizer_constants
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    set_learning_rate,
    update_both,
)

_ACTOR_FIELDS = len(fields(ActorBatch))


class GraphedUpdate:
    """`update_both`, captured.

    Args:
        actor: On a CUDA device, with a capturable optimizer, as `PPOConfig(compile=True)` makes it.
        critic: Likewise.
        config: Of both, without `target_kl`.
        device: Theirs.

    Raises:
        ValueError: if the device is not CUDA.
    """

    def __init__(
        self,
        actor: ActorUpdate,
        critic: CriticUpdate,
        config: PPOConfig,
        device: torch.device,
    ) -> None:
        self._actor, self._critic, self._config = actor, critic, config
        self._graphed = GraphedFunction(self._run, device=device, constants=self._constants)
        # On the device, so that a schedule needs no capture of its own for every update.
        self._learning_rate = torch.zeros((), device=device)

    def __call__(
        self, batches: tuple[ActorBatch, CriticBatch], orders: Tensor, learning_rate: float
    ) -> dict[str, Tensor]:
        """Do an update.

        Args:
            batches: A rollout.
            orders: Of its steps in each epoch. Shape: (epochs, rollout_steps), integers.
            learning_rate: Of both optimizers.

        Returns:
            The statistics of both, (); the next update overwrites them.
        """
        optimizers = (self._actor.optimizer, self._critic.optimizer)
        self._learning_rate.fill_(learning_rate)
        for optimizer in optimizers:
            set_learning_rate(optimizer, self._learning_rate)
        tensors = [getattr(batch, each.name) for batch in batches for each in fields(batch)]
        statistics: dict[str, Tensor] = self._graphed(orders, *tensors)
        for optimizer in optimizers:  # a number, as without a graph: it is saved
            set_learning_rate(optimizer, learning_rate)
        return statistics

    def forget(self) -> None:
        """To be called when a state was loaded, as tensors may have been replaced."""
        self._graphed.forget()

    def _run(self, orders: Tensor, *tensors: Tensor) -> dict[str, Tensor]:
        batches = ActorBatch(*tensors[:_ACTOR_FIELDS]), CriticBatch(*tensors[_ACTOR_FIELDS:])
        return update_both(
            self._actor,
            self._critic,
            batches,
            list(orders),
            self._learning_rate,
            self._config,
        )

    def _constants(self) -> Hashable:
        return tuple(optimizer_constants(half.optimizer) for half in (self._actor, self._critic))
