"""Policies that PPO trains: one policy, or R stacked ones, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction
from plasticity.agents.execution.single import SingleNetwork, constants_of
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.optimizers import Optimizer
from plasticity.agents.ppo.updates import ActorUpdate
from plasticity.stacking.networks import StackedNetworks


class Policies(ABC):
    """Actors and critics with their optimizers, over leading dimensions `*lead`.

    `SinglePolicy` is one policy, where `lead` is (); `StackedPolicies` are R stacked ones, where it is (R,).
    """

    lead: tuple[int, ...]
    """Leading dimensions of all tensors."""

    log_std: Tensor | None
    """Log standard deviations of continuous actions, (*lead, action_size). None: actions are discrete."""

    networks: SingleNetwork | StackedNetworks
    """Actors and critics."""

    hidden_layers: tuple[str, ...]
    """Names of the layers measured by a tracker, as in `ActorCritic`."""

    _actor: ActorUpdate
    _optimizers: dict[str, Optimizer]
    _graphed: GraphedFunction | None = None

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by their names in an `ActorCritic`. Shape of each: (*lead, *shape)."""
        return self.networks.parameters

    # ---- acting -----------------------------------------------------------------------------------

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actors, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch, action_size).
        """

    @abstractmethod
    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critics, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch).
        """

    @torch.no_grad()
    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions under the actors' outputs, without gradients.

        Shapes: (*lead, batch, action_size), and (*lead, batch, action_size) or (*lead, batch) to
        (*lead, batch).
        """
        return self._actor.distribution.log_probabilities(outputs, actions)

    @torch.no_grad()
    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy in nats, without gradients.

        Shape: (*lead, batch, action_size) to (*lead,).
        """
        return self._actor.distribution.entropy(outputs)

    # ---- learning ---------------------------------------------------------------------------------

    def update(
        self, batch: Batch, data_orders: Tensor, learning_rates: Sequence[float]
    ) -> dict[str, Tensor]:
        """Learn from a rollout.

        Args:
            batch: The rollout.
            data_orders: One permutation of each policy's steps per epoch. Shape: (*lead, epochs, N), int64.
            learning_rates: Learning rate of each policy's optimizers.

        Returns:
            value_loss, policy_loss, clip_fraction (0 to 1) and approximate_kl (nats, over the last epoch),
            (*lead,). The next update may overwrite them.
        """
        for optimizer in self._optimizers.values():
            optimizer.set_learning_rate(learning_rates)
        learn = self._learn if self._graphed is None else self._graphed
        statistics: dict[str, Tensor] = learn(data_orders, *vars(batch).values())
        return statistics

    @abstractmethod
    def _learn(self, data_orders: Tensor, *batch: Tensor) -> dict[str, Tensor]:
        """Run all epochs; `batch` as the fields of a `Batch`, so that the update can be captured."""

    def _capture(self) -> None:
        """Turn `_learn` into a CUDA graph.

        The published update is 320 optimizer steps on small networks, each of about fifty tiny kernels:
        launching them takes the host longer than the GPU needs to run them.
        """
        self._graphed = GraphedFunction(
            self._learn, device=self._actor.parameters[0].device, constants=self._constants
        )

    def _constants(self) -> tuple[Any, ...]:
        return tuple([constants_of(each) for each in self._optimizers.values()])

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Keep a policy as it is from now on. A single one stays as it is when nobody updates it.

        Raises:
            IndexError: if there is no such policy.
        """
        for optimizer in self._optimizers.values():
            optimizer.freeze(index)

    @abstractmethod
    def policy(self, index: int = 0) -> ActorCritic:
        """Return a policy as an ordinary module, with the gradients of its last minibatch in `.grad`.

        Raises:
            IndexError: if there is no such policy.
        """

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return a policy's "policy", "actor_optimizer" and "critic_optimizer", in one format for both forms.

        Raises:
            IndexError: if there is no such policy.
        """
        optimizers = {name: each.state_dict(index) for name, each in self._optimizers.items()}
        return {"policy": self.networks.state_dict(index), **optimizers}

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load a `state_dict` of either form, saved on any device, into a policy.

        Raises:
            IndexError: if there is no such policy.
        """
        self.networks.load_state_dict(index, state["policy"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(index, state[name])
        if self._graphed is not None:
            self._graphed.forget()  # loading may have replaced tensors of the optimizers

    def close(self) -> None:  # noqa: B027
        """End what runs outside of this process, if anything does."""
