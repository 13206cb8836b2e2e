"""R stacked policies with their optimizers: the backend of PPO for many agents on one device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.halves import passes_and_hooks
from plasticity.agents.ppo.optimizers import actor_optimizer, critic_optimizer
from plasticity.agents.ppo.policies import Policies
from plasticity.agents.ppo.updates import ActorUpdate, CriticUpdate, update_both
from plasticity.mitigations import SeededMethod
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


class StackedPolicies(Policies):
    """R stacked policies. An update does not wait for the device.

    Args:
        policies: R policies of one architecture on one device. Their weights are copied.
        config: Settings of each policy's update.
        actors: Mitigations of each actor's layers; `log_std` is left alone.
        critics: Mitigations of each critic's layers.

    Raises:
        ValueError: if the policies differ in architecture, the numbers of arguments differ, methods cannot be
            stacked, the configuration compiles without CUDA, or it compiles or has a target KL while
            mitigations act on steps.
    """

    def __init__(
        self,
        policies: Sequence[ActorCritic],
        config: PPOConfig,
        actors: Sequence[SeededMethod],
        critics: Sequence[SeededMethod],
    ) -> None:
        if not len(policies) == len(actors) == len(critics):
            raise ValueError(
                f"There are {len(policies)} policies, {len(actors)} actors' and {len(critics)} critics'"
                " settings: give one of each for every policy."
            )
        for policy, actor, critic in zip(policies, actors, critics, strict=True):
            actor.prepare(policy.actor)
            critic.prepare(policy.critic)
        self.networks: StackedNetworks = StackedNetworks(policies)
        self.lead = (len(policies),)
        self.log_std, self.hidden_layers = self.parameters.get("log_std"), policies[0].hidden_layers
        pairs = (
            [
                actor_optimizer(policy, config, method.regularizer)
                for policy, method in zip(policies, actors, strict=True)
            ],
            [
                critic_optimizer(policy.critic, config, method.regularizer)
                for policy, method in zip(policies, critics, strict=True)
            ],
        )
        for_actors, for_critics = (
            StackedOptimizer(each, self.networks.in_order_of(each[0], policies[0]))
            for each in pairs
        )
        self._optimizers = {"actor_optimizer": for_actors, "critic_optimizer": for_critics}
        self._actor_networks, actor_hooks = passes_and_hooks(
            self.networks.part("actor"), for_actors, actors, config
        )
        self._critic_networks, critic_hooks = passes_and_hooks(
            self.networks.part("critic"), for_critics, critics, config
        )
        self._actor = ActorUpdate(
            self._actor_networks, self.log_std, for_actors, config, actor_hooks
        )
        self._critic = CriticUpdate(self._critic_networks, for_critics, config, critic_hooks)
        self._hooks = {"actor": actor_hooks, "critic": critic_hooks}
        if config.compile:
            self._capture()

    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actors."""
        return self._actor_networks(observations)

    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critics."""
        return self._critic_networks(observations).squeeze(-1)

    def _learn(self, data_orders: Tensor, *batch: Tensor) -> dict[str, Tensor]:
        return update_both(self._actor, self._critic, Batch(*batch), data_orders)

    def policy(self, index: int = 0) -> ActorCritic:
        """Return a new module with copies of a policy's weights and gradients."""
        policy = self.networks.network(index)
        assert isinstance(policy, ActorCritic)
        for name, parameter in policy.named_parameters():
            gradient = self.parameters[name].grad
            parameter.grad = None if gradient is None else gradient[index].clone()
        return policy
