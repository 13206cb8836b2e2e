"""PPO's whole update as one CUDA graph.

The published update is 320 optimizer steps on small networks, each of about fifty tiny kernels: launching
them takes the host longer than the GPU needs to run them.
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
    """Captured form of `update_both`.

    Args:
        actor: Actor's half on a CUDA device, with a capturable optimizer, as created under
            `PPOConfig(compile=True)`.
        critic: Critic's half, likewise.
        config: Settings of both, without `target_kl`.
        device: Device of both.

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
        # On the device, so that a schedule does not need a new capture for every update.
        self._learning_rate = torch.zeros((), device=device)

    def __call__(
        self, batches: tuple[ActorBatch, CriticBatch], data_orders: Tensor, learning_rate: float
    ) -> dict[str, Tensor]:
        """Run an update.

        Args:
            batches: The rollout.
            data_orders: One permutation of its steps per epoch. Shape: (epochs, rollout_steps), integers.
            learning_rate: Learning rate of both optimizers.

        Returns:
            The statistics of both halves, (); the next update overwrites them.
        """
        optimizers = (self._actor.optimizer, self._critic.optimizer)
        self._learning_rate.fill_(learning_rate)
        for optimizer in optimizers:
            set_learning_rate(optimizer, self._learning_rate)
        tensors = [getattr(batch, each.name) for batch in batches for each in fields(batch)]
        statistics: dict[str, Tensor] = self._graphed(data_orders, *tensors)
        for optimizer in optimizers:  # a number, as without a graph, because it is saved
            set_learning_rate(optimizer, learning_rate)
        return statistics

    def forget(self) -> None:
        """Drop all captures. Call this after loading a state, which may have replaced tensors."""
        self._graphed.forget()

    def _run(self, data_orders: Tensor, *tensors: Tensor) -> dict[str, Tensor]:
        batches = ActorBatch(*tensors[:_ACTOR_FIELDS]), CriticBatch(*tensors[_ACTOR_FIELDS:])
        return update_both(
            self._actor,
            self._critic,
            batches,
            list(data_orders),
            self._learning_rate,
            self._config,
        )

    def _constants(self) -> Hashable:
        return tuple(optimizer_constants(half.optimizer) for half in (self._actor, self._critic))
