"""Settings of algorithms that learn from a replay buffer: what all share, and those for discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.agents.sb3.config import (
    Actions,
    SB3Config,
    algorithm,
    require_positive,
    require_share,
)
from plasticity.checks import require_integer


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(SB3Config):
    """Settings that all algorithms with a replay buffer have.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.
    """

    buffer_size: int = 1_000_000
    """Steps that the replay buffer holds; older ones are overwritten. It is part of every checkpoint, as far
    as it is filled."""

    learning_starts: int = 100
    """Environment steps before the first update; actions are uniformly random until then."""

    train_freq: int = 1
    """Steps of each environment between two updates."""

    gradient_steps: int = 1
    """Optimizer steps of an update; -1: as many as environment steps since the last one, summed over all
    environments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("buffer_size", self.buffer_size, minimum=1)
        require_integer("learning_starts", self.learning_starts, minimum=0)
        require_integer("train_freq", self.train_freq, minimum=1)
        require_integer("gradient_steps", self.gradient_steps, minimum=-1)
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps must be above 0, or -1: with 0, nothing is learned.")

    def round_steps(self, num_envs: int) -> int:
        """Return the steps that are collected for an update."""
        return self.train_freq * num_envs

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of the algorithm's class.

        Raises:
            ValueError: if the replay buffer cannot hold a step of each environment.
        """
        if self.buffer_size < num_envs:
            raise ValueError(
                f"buffer_size {self.buffer_size} must hold a step of each of the {num_envs} environments:"
                " give a larger one."
            )
        return {
            **super().arguments(num_envs),
            "buffer_size": self.buffer_size,
            "learning_starts": self.learning_starts,
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
        }


@algorithm("sb3:dqn")
@dataclass(frozen=True, kw_only=True)
class DQNConfig(OffPolicyConfig):
    """DQN of Stable-Baselines3 (Mnih et al., 2015)."""

    source: ClassVar[str] = "stable_baselines3:DQN"
    actions: ClassVar[Actions] = "discrete"
    statistics: ClassVar[tuple[str, ...]] = ("value_loss", "exploration_rate")

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    learning_rate: float = 1e-4
    """Step size of Adam, above 0."""

    batch_size: int = 32
    """Steps in a minibatch."""

    train_freq: int = 4
    """Steps of each environment between two updates."""

    tau: float = 1.0
    """Share of the trained weights in the target network at its update, above 0; 1: a copy."""

    target_update_every: int = 10_000
    """Environment steps, summed over all environments, from one update of the target network to the next."""

    exploration_steps: int = 100_000
    """Environment steps over which the share of random actions falls, at least 1. Stable-Baselines3 has a
    share of the run's length, a tenth; with a number of steps, a run can be extended as if it had been longer
    from the start."""

    initial_exploration: float = 1.0
    """Share of random actions at first, 0 to 1."""

    final_exploration: float = 0.05
    """Share of random actions after `exploration_steps`, 0 to 1."""

    max_gradient_norm: float | None = 10.0
    """Norm to which the gradient is clipped. None: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("tau", self.tau)
        require_positive("tau", self.tau)
        require_integer("target_update_every", self.target_update_every, minimum=1)
        require_integer("exploration_steps", self.exploration_steps, minimum=1)
        require_share("initial_exploration", self.initial_exploration)
        require_share("final_exploration", self.final_exploration)
        if self.max_gradient_norm is not None:
            require_positive("max_gradient_norm", self.max_gradient_norm)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of Stable-Baselines3's DQN, whose exploration ends with its schedule."""
        unlimited = float("inf")
        return {
            **super().arguments(num_envs),
            "tau": self.tau,
            "target_update_interval": self.target_update_every,
            "exploration_fraction": 1.0,  # of exploration_steps, which the agent gives as the length
            "exploration_initial_eps": self.initial_exploration,
            "exploration_final_eps": self.final_exploration,
            "max_grad_norm": unlimited
            if self.max_gradient_norm is None
            else self.max_gradient_norm,
        }


@algorithm("sb3:qrdqn")
@dataclass(frozen=True, kw_only=True)
class QRDQNConfig(DQNConfig):
    """QR-DQN of sb3-contrib, which learns quantiles of the return (Dabney et al., 2018)."""

    source: ClassVar[str] = "sb3_contrib:QRDQN"

    learning_rate: float = 5e-5
    """Step size of Adam, above 0."""

    exploration_steps: int = 5000
    """Environment steps over which the share of random actions falls, at least 1. sb3-contrib has a share of
    the run's length, 0.005."""

    final_exploration: float = 0.01
    """Share of random actions after `exploration_steps`, 0 to 1."""

    max_gradient_norm: float | None = None
    """Norm to which the gradient is clipped. None: no clipping."""

    num_quantiles: int = 200
    """Quantiles of the return of each action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_quantiles", self.num_quantiles, minimum=1)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of sb3-contrib's QR-DQN."""
        return {**super().arguments(num_envs), "max_grad_norm": self.max_gradient_norm}

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments of the policy's class."""
        return {**super().policy_arguments(), "n_quantiles": self.num_quantiles}

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return Adam's epsilon, which sb3-contrib derives from the size of a minibatch."""
        return {"eps": 0.01 / self.batch_size}
