"""R stacked policies with their optimizers: the backend of PPO for many agents on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.distributions import distribution_of
from plasticity.agents.ppo.gradients import stacked_gradients_of
from plasticity.agents.ppo.graphed_update import GraphedUpdate
from plasticity.agents.ppo.optimizers import actor_optimizer, critic_optimizer
from plasticity.agents.ppo.updates import ActorUpdate, CriticUpdate, update_both
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


class StackedPolicies:
    """R stacked policies; see `Policies`. An update does not wait for the device.

    Args:
        policies: R policies of one architecture on one device. Their weights are copied.
        config: Settings of each policy's update.
        actors: Regularizer of each actor's layers; `log_std` is never regularized.
        critics: Regularizer of each critic's layers.

    Raises:
        ValueError: if the policies differ in architecture, the numbers of arguments differ, or the
            configuration compiles without CUDA.
    """

    def __init__(
        self,
        policies: Sequence[ActorCritic],
        config: PPOConfig,
        actors: Sequence[RegularizerSettings],
        critics: Sequence[RegularizerSettings],
    ) -> None:
        if not len(policies) == len(actors) == len(critics):
            raise ValueError(
                f"There are {len(policies)} policies, {len(actors)} actors' and {len(critics)} critics'"
                " settings: give one of each for every policy."
            )
        self.networks = StackedNetworks(policies)
        """Actors and critics, stacked."""
        self.lead: tuple[int, ...] = (len(policies),)
        self.parameters: Mapping[str, Tensor] = self.networks.parameters
        self.log_std: Tensor | None = self.parameters.get("log_std")
        self.hidden_layers = policies[0].hidden_layers
        self._config = config
        self._distribution = distribution_of(self.log_std)
        self._actor_network, self._critic_network = (
            stacked_gradients_of(self.networks, part, config.minibatch_size)
            for part in ("actor", "critic")
        )
        self._actor_optimizer, parameters = self._stacked(
            policies[0],
            [actor_optimizer(p, config, s) for p, s in zip(policies, actors, strict=True)],
        )
        self._actor = ActorUpdate(
            self._actor_network, self._distribution, self._actor_optimizer, parameters, config
        )
        self._critic_optimizer, parameters = self._stacked(
            policies[0],
            [critic_optimizer(p.critic, config, s) for p, s in zip(policies, critics, strict=True)],
        )
        self._critic = CriticUpdate(
            self._critic_network, self._critic_optimizer, parameters, config
        )
        self._update: Callable[[Batch, Tensor], dict[str, Tensor]] = self._update_both
        if config.compile:
            device = parameters[0].device
            self._update = GraphedUpdate(self._update_both, device)

    def _stacked(
        self, policy: ActorCritic, optimizers: Sequence[RegularizedOptimizer]
    ) -> tuple[StackedOptimizer, list[Tensor]]:
        parameters = self.networks.in_order_of(optimizers[0], policy)
        return StackedOptimizer(optimizers, parameters), parameters

    # ---- acting -----------------------------------------------------------------------------------

    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actors; see `Policies`."""
        return self._actor_network(observations)

    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critics; see `Policies`."""
        return self._critic_network(observations).squeeze(-1)

    @torch.no_grad()
    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions; see `Policies`."""
        return self._distribution.log_probabilities(outputs, actions)

    @torch.no_grad()
    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropies in nats; see `Policies`."""
        return self._distribution.entropy(outputs)

    # ---- learning ---------------------------------------------------------------------------------

    def update(
        self, batch: Batch, data_orders: Tensor, learning_rates: Sequence[float]
    ) -> dict[str, Tensor]:
        """Learn from a rollout; see `Policies`."""
        for optimizer in (self._actor_optimizer, self._critic_optimizer):
            optimizer.set_learning_rate(learning_rates)
        return self._update(batch, data_orders)

    def _update_both(self, batch: Batch, data_orders: Tensor) -> dict[str, Tensor]:
        return update_both(self._actor, self._critic, batch, data_orders, self._config)

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Keep a policy as it is from now on; see `Policies`. The other policies go on."""
        self._actor_optimizer.freeze(index)
        self._critic_optimizer.freeze(index)

    def policy(self, index: int = 0) -> ActorCritic:
        """Return a new module with copies of a policy's weights and gradients; see `Policies`."""
        policy = self.networks.network(index)
        assert isinstance(policy, ActorCritic)
        for name, parameter in policy.named_parameters():
            gradient = self.parameters[name].grad
            parameter.grad = None if gradient is None else gradient[index].clone()
        return policy

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of a policy and its optimizers; see `Policies`."""
        return {
            "policy": self.networks.state_dict(index),
            "actor_optimizer": self._actor_optimizer.state_dict(index),
            "critic_optimizer": self._critic_optimizer.state_dict(index),
        }

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load the state of a policy and its optimizers; see `Policies`."""
        self.networks.load_state_dict(index, state["policy"])
        self._actor_optimizer.load_state_dict(index, state["actor_optimizer"])
        self._critic_optimizer.load_state_dict(index, state["critic_optimizer"])
        if isinstance(self._update, GraphedUpdate):
            self._update.forget()

    def close(self) -> None:
        """Do nothing: everything runs in this process."""
