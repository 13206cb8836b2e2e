"""One policy with its optimizers: the ordinary backend of PPO."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.agents.execution.single import SingleNetwork, SingleOptimizer
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.critic_process import CriticProcess
from plasticity.agents.ppo.halves import critic_half, passes_and_hooks
from plasticity.agents.ppo.optimizers import actor_optimizer
from plasticity.agents.ppo.policies import Policies
from plasticity.agents.ppo.updates import (
    ActorUpdate,
    CriticUpdate,
    run_half,
    update_both,
)
from plasticity.checks import require_integer
from plasticity.mitigations import SeededMethod
from plasticity.stacking.networks import require_index


class SinglePolicy(Policies):
    """One policy.

    Args:
        policy: Policy, updated in place. Its device is the update's.
        config: Settings of the update.
        actor: Mitigations of the actor's layers; `log_std` is left alone.
        critic: Mitigations of the critic's layers.
        update_threads: 2 runs the critic's update in a separate process, on another core than the actor's,
            with bit-for-bit the same numbers. On a CPU only, and only if nothing couples the two. A critic
            of your own must be one that can be pickled and draws no random numbers.

    Raises:
        TypeError: if `update_threads` is not an integer.
        ValueError: if `update_threads` does not fit the device or the configuration, or the configuration
            compiles without CUDA, or compiles with mitigations that act on steps.
    """

    def __init__(
        self,
        policy: ActorCritic,
        config: PPOConfig,
        actor: SeededMethod,
        critic: SeededMethod,
        *,
        update_threads: int = 1,
    ) -> None:
        _check_update_threads(update_threads, config, next(policy.parameters()).device)
        self._policy = policy
        self.lead, self.log_std = (), policy.log_std
        for network, method in ((policy.actor, actor), (policy.critic, critic)):
            method.prepare(network)  # which may add parameters, and remove some
        self.networks, self.hidden_layers = SingleNetwork(policy), policy.hidden_layers
        captured = config.compile
        optimizer = SingleOptimizer(
            actor_optimizer(policy, config, actor.regularizer), captured=captured
        )
        passes, hooks = passes_and_hooks(SingleNetwork(policy.actor), optimizer, [actor], config)
        self._actor = ActorUpdate(passes, policy.log_std, optimizer, config, hooks)
        self._critic: CriticUpdate | CriticProcess
        if update_threads == 2 and not captured:
            self._critic = process = CriticProcess(policy.critic, config, critic)
            self._optimizers = {"actor_optimizer": optimizer, "critic_optimizer": process}
        else:
            self._critic = half = critic_half(policy.critic, config, critic)
            self._optimizers = {"actor_optimizer": optimizer, "critic_optimizer": half.optimizer}
        self._hooks = {"actor": hooks, "critic": self._critic.hooks}
        if captured:
            self._capture()

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actor."""
        outputs: Tensor = self._policy.actor(observations)
        return outputs

    @torch.no_grad()
    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critic."""
        values: Tensor = self._policy.critic(observations)
        return values.squeeze(-1)

    def _learn(self, data_orders: Tensor, *batch: Tensor) -> dict[str, Tensor]:
        rollout = Batch(*batch)
        if isinstance(self._critic, CriticUpdate):
            return update_both(self._actor, self._critic, rollout, data_orders)
        self._critic.start(rollout, data_orders)
        self._actor.begin(rollout)
        run_half(self._actor, data_orders)
        return self._critic.finish() | self._actor.statistics()

    def policy(self, index: int = 0) -> ActorCritic:
        """Return the policy itself."""
        require_index(index, 1)
        return self._policy

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
