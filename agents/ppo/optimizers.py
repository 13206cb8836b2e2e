"""Optimizers of actor and critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plasticity.agents.execution.compiled import load_optimizer
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.optim.kernels.step import step_options
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.stacking.networks import require_index


class Optimizer(Protocol):
    """Interface of `StackedOptimizer` on which PPO relies, whatever takes the steps."""

    def set_learning_rate(self, rates: Sequence[float], /) -> None:
        """Set the learning rate of each policy."""

    def freeze(self, index: int, /) -> None:
        """Keep a policy as it is from now on."""

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """Return a policy's state, in the format of an ordinary optimizer."""

    def load_state_dict(self, index: int, state: Mapping[str, Any], /) -> None:
        """Load a state into a policy."""


class SingleOptimizer:
    """Ordinary optimizer of one policy with the interface of a `StackedOptimizer`.

    Args:
        ordinary: The optimizer.
        captured: Whether steps are captured in a CUDA graph. The learning rate then lies on the device, so
            that a schedule does not need a new capture for every update.
    """

    def __init__(self, ordinary: RegularizedOptimizer, *, captured: bool = False) -> None:
        self.ordinary = ordinary
        self._rate = ordinary.param_groups[0]["lr"]
        parameter = ordinary.param_groups[0]["params"][0]
        self._captured_rate = torch.zeros((), device=parameter.device) if captured else None

    def step(self, active: Tensor | None = None) -> None:
        """Take a step; `active` is for stacked policies only."""
        self.ordinary.step()

    def set_learning_rate(self, rates: Sequence[float]) -> None:
        """Set the learning rate of all groups."""
        (self._rate,) = rates
        rate: float | Tensor = self._rate
        if self._captured_rate is not None:
            rate = self._captured_rate.fill_(self._rate)
        for group in self.ordinary.param_groups:
            group["lr"] = rate

    def freeze(self, index: int) -> None:
        """Do nothing: the only policy stays as it is when nobody takes a step."""
        require_index(index, 1)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of the optimizer."""
        require_index(index, 1)
        state = self.ordinary.state_dict()
        for group in state["param_groups"]:
            group["lr"] = self._rate  # a number, as without a graph
        return state

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load the state of an optimizer."""
        require_index(index, 1)
        load_optimizer(self.ordinary, dict(state))
        self.set_learning_rate([self.ordinary.param_groups[0]["lr"]])


def actor_optimizer(
    policy: ActorCritic, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the actor and its `log_std`, which is not regularized."""
    groups = _groups(policy.actor, regularizer)
    if policy.log_std is not None:
        groups.append({"params": [policy.log_std], "regularizer": "none", "strength": 0.0})
    return _adam(groups, policy.actor, config)


def critic_optimizer(
    critic: nn.Module, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the critic."""
    return _adam(_groups(critic, regularizer), critic, config)


def _groups(network: nn.Module, regularizer: RegularizerSettings) -> list[dict[str, object]]:
    settings = {field.name: getattr(regularizer, field.name) for field in fields(regularizer)}
    return parameter_groups(network, **settings)


def _adam(
    groups: list[dict[str, object]], network: nn.Module, config: PPOConfig
) -> RegularizedOptimizer:
    device = next(network.parameters()).device
    return regularized(torch.optim.Adam)(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        capturable=config.compile and device.type == "cuda",
        **step_options(config.kernel, torch.optim.Adam, device),
    )
