"""One policy with its optimizers: the ordinary backend of PPO."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import load_optimizer, optimizer_constants
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.critic_process import CriticProcess
from plasticity.agents.ppo.distributions import distribution_of
from plasticity.agents.ppo.gradients import gradients_of
from plasticity.agents.ppo.graphed_update import GraphedUpdate
from plasticity.agents.ppo.optimizers import (
    actor_optimizer,
    critic_optimizer,
    parameters_of,
    set_learning_rate,
)
from plasticity.agents.ppo.updates import (
    ActorUpdate,
    CriticUpdate,
    minibatch_rows,
    run_half,
    update_both,
)
from plasticity.checks import require_integer
from plasticity.optim.settings import RegularizerSettings
from plasticity.stacking.networks import require_index


class SinglePolicy:
    """One policy; see `Policies`.

    Args:
        policy: Policy, updated in place. Its device is the update's.
        config: Settings of the update.
        actor: Regularizer of the actor's layers; `log_std` is never regularized.
        critic: Regularizer of the critic's layers.
        update_threads: 2 runs the critic's update in a separate process, on another core than the actor's,
            with bit-for-bit the same numbers. On a CPU only, and only if nothing couples the two.

    Raises:
        TypeError: if `update_threads` is not an integer.
        ValueError: if `update_threads` does not fit the device or the configuration, or the configuration
            compiles without CUDA.
    """

    lead: tuple[int, ...] = ()

    def __init__(
        self,
        policy: ActorCritic,
        config: PPOConfig,
        actor: RegularizerSettings,
        critic: RegularizerSettings,
        *,
        update_threads: int = 1,
    ) -> None:
        self.parameters: Mapping[str, Tensor] = dict(policy.named_parameters())
        self.log_std: Tensor | None = policy.log_std
        self.hidden_layers = policy.hidden_layers
        self._policy, self._config = policy, config
        self._distribution = distribution_of(policy.log_std)
        device = next(policy.parameters()).device
        _check_update_threads(update_threads, config, device)
        size = config.minibatch_size
        optimizer = actor_optimizer(policy, config, actor)
        network = gradients_of(policy.actor, size)
        self._actor = ActorUpdate(
            network, self._distribution, optimizer, parameters_of(optimizer), config
        )
        self._critic: CriticUpdate | CriticProcess
        if update_threads == 2 and not config.compile:
            self._critic = CriticProcess(policy.critic, config, critic)
            self._optimizers = [optimizer]
        else:
            other = critic_optimizer(policy.critic, config, critic)
            network = gradients_of(policy.critic, size)
            self._critic = CriticUpdate(network, other, parameters_of(other), config)
            self._optimizers = [optimizer, other]
        self._graphed: GraphedUpdate | None = None
        if config.compile:
            self._graphed = GraphedUpdate(self._update_both, device, self._constants)
            # On the device, so that a schedule does not need a new capture for every update.
            self._learning_rate = torch.zeros((), device=device)

    # ---- acting -----------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actor; see `Policies`."""
        outputs: Tensor = self._policy.actor(observations)
        return outputs

    @torch.no_grad()
    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critic; see `Policies`."""
        values: Tensor = self._policy.critic(observations)
        return values.squeeze(-1)

    @torch.no_grad()
    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions; see `Policies`."""
        return self._distribution.log_probabilities(outputs, actions)

    @torch.no_grad()
    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy in nats; see `Policies`."""
        return self._distribution.entropy(outputs)

    # ---- learning ---------------------------------------------------------------------------------

    def update(
        self, batch: Batch, data_orders: Tensor, learning_rates: Sequence[float]
    ) -> dict[str, Tensor]:
        """Learn from a rollout; see `Policies`.

        Raises:
            RuntimeError: if the critic's process has ended.
        """
        (rate,) = learning_rates
        if isinstance(self._critic, CriticProcess):
            self._set_learning_rate(rate)
            return self._update_apart(self._critic, batch, data_orders, rate)
        if self._graphed is None:
            self._set_learning_rate(rate)
            return self._update_both(batch, data_orders)
        self._learning_rate.fill_(rate)
        self._set_learning_rate(self._learning_rate)
        statistics = self._graphed(batch, data_orders)
        self._set_learning_rate(rate)  # a number, as without a graph, because it is saved
        return statistics

    def _set_learning_rate(self, rate: float | Tensor) -> None:
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, rate)

    def _update_both(self, batch: Batch, data_orders: Tensor) -> dict[str, Tensor]:
        assert isinstance(self._critic, CriticUpdate)
        return update_both(self._actor, self._critic, batch, data_orders, self._config)

    def _update_apart(
        self, critic: CriticProcess, batch: Batch, data_orders: Tensor, rate: float
    ) -> dict[str, Tensor]:
        critic.start(batch, data_orders, rate)
        self._actor.begin(batch)
        rows = minibatch_rows(data_orders, self._config.minibatch_size)
        run_half(self._actor, rows, self._config.num_minibatches)
        return critic.finish() | self._actor.statistics()

    def _constants(self) -> Hashable:
        return tuple(optimizer_constants(optimizer) for optimizer in self._optimizers)

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Do nothing: the only policy stays as it is when nobody updates it; see `Policies`."""
        require_index(index, 1)

    def policy(self, index: int = 0) -> ActorCritic:
        """Return the policy itself; see `Policies`."""
        require_index(index, 1)
        return self._policy

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of policy and optimizers; see `Policies`."""
        require_index(index, 1)
        critic = self._critic
        return {
            "policy": self._policy.state_dict(),
            "actor_optimizer": self._optimizers[0].state_dict(),
            "critic_optimizer": critic.optimizer_state_dict()
            if isinstance(critic, CriticProcess)
            else self._optimizers[1].state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load the state of policy and optimizers; see `Policies`."""
        require_index(index, 1)
        self._policy.load_state_dict(state["policy"])
        load_optimizer(self._optimizers[0], state["actor_optimizer"])
        if isinstance(self._critic, CriticProcess):
            self._critic.load_optimizer_state_dict(state["critic_optimizer"])
        else:
            load_optimizer(self._optimizers[1], state["critic_optimizer"])
        if self._graphed is not None:
            self._graphed.forget()

    def close(self) -> None:
        """End the critic's process, if there is one."""
        if isinstance(self._critic, CriticProcess):
            self._critic.close()


def _check_update_threads(update_threads: int, config: PPOConfig, device: torch.device) -> None:
    require_integer("update_threads", update_threads, minimum=1, maximum=2)
    if update_threads == 1:
        return
    if device.type != "cpu":
        raise ValueError(f"update_threads=2 works on a CPU only, not on {device}: leave it at 1.")
    for name in ("max_gradient_norm", "target_kl"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"{name}={getattr(config, name)} couples actor and critic at every minibatch, so that they"
                " cannot be updated separately: give update_threads=1."
            )
