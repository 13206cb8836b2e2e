"""Settings of the algorithms that learn from a replay buffer: Stable-Baselines3's and sb3-contrib's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.agents.networks.base import require_widths
from plasticity.agents.sb3.config import (
    Actions,
    SB3Config,
    algorithm,
    require_positive,
    require_share,
)
from plasticity.checks import require_integer, require_number


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
    """Optimizer steps of an update; -1: as many as steps of each environment since the last one."""

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


# ---- discrete actions -------------------------------------------------------------------------------


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


# ---- continuous actions -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _EntropyConfig(OffPolicyConfig):
    """Settings of algorithms that maximize the entropy of their actions, too."""

    actions: ClassVar[Actions] = "continuous"
    statistics: ClassVar[tuple[str, ...]] = ("policy_loss", "value_loss", "entropy_coefficient")

    entropy_coefficient: float | None = None
    """Weight of the entropy beside the reward, at least 0. None: learned, so that the entropy approaches
    `target_entropy`."""

    target_entropy: float | None = None
    """Entropy in nats that a learned weight aims at. None: minus the number of action dimensions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.entropy_coefficient is not None:
            require_number("entropy_coefficient", self.entropy_coefficient, minimum=0.0)
        if self.target_entropy is None:
            return
        require_number("target_entropy", self.target_entropy, minimum=-float("inf"))
        if self.entropy_coefficient is not None:
            raise ValueError(
                f"target_entropy={self.target_entropy!r} has no effect with a fixed entropy_coefficient"
                f" of {self.entropy_coefficient!r}: leave out one of the two."
            )

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of the algorithm's class."""
        coefficient, target = self.entropy_coefficient, self.target_entropy
        return {
            **super().arguments(num_envs),
            "ent_coef": "auto" if coefficient is None else coefficient,
            "target_entropy": "auto" if target is None else target,
        }


@algorithm("sb3:sac")
@dataclass(frozen=True, kw_only=True)
class SACConfig(_EntropyConfig):
    """Soft actor-critic of Stable-Baselines3 (Haarnoja et al., 2018)."""

    source: ClassVar[str] = "stable_baselines3:SAC"

    tau: float = 0.005
    """Share of the trained weights in the target networks at each update, above 0 and at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("tau", self.tau)
        require_positive("tau", self.tau)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of Stable-Baselines3's SAC."""
        return {**super().arguments(num_envs), "tau": self.tau}


@algorithm("sb3:tqc")
@dataclass(frozen=True, kw_only=True)
class TQCConfig(SACConfig):
    """Truncated quantile critics of sb3-contrib (Kuznetsov et al., 2020)."""

    source: ClassVar[str] = "sb3_contrib:TQC"

    num_quantiles: int = 25
    """Quantiles of each critic."""

    dropped_quantiles: int = 2
    """Highest quantiles that are left out of the target, of each critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("num_quantiles", self.num_quantiles, minimum=1)
        most = self.num_quantiles - 1
        require_integer("dropped_quantiles", self.dropped_quantiles, minimum=0, maximum=most)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of sb3-contrib's TQC."""
        return {
            **super().arguments(num_envs),
            "top_quantiles_to_drop_per_net": self.dropped_quantiles,
        }

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments of the policy's class."""
        return {**super().policy_arguments(), "n_quantiles": self.num_quantiles}


@algorithm("sb3:crossq")
@dataclass(frozen=True, kw_only=True)
class CrossQConfig(_EntropyConfig):
    """CrossQ of sb3-contrib: no target networks, and normalized batches (Bhatt et al., 2024)."""

    source: ClassVar[str] = "sb3_contrib:CrossQ"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the actor's hidden layers."""

    critic_hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the critics' hidden layers."""

    learning_rate: float = 1e-3
    """Step size of Adam, above 0, the same for all networks."""

    policy_delay: int = 3
    """Updates of the critics for each of the actor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_widths("critic_hidden", self.critic_hidden, "(1024, 1024)")
        require_integer("policy_delay", self.policy_delay, minimum=1)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of sb3-contrib's CrossQ."""
        return {**super().arguments(num_envs), "policy_delay": self.policy_delay}

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments of the policy's class."""
        return {"net_arch": {"pi": list(self.hidden), "qf": list(self.critic_hidden)}}


@algorithm("sb3:td3")
@dataclass(frozen=True, kw_only=True)
class TD3Config(OffPolicyConfig):
    """Twin delayed DDPG of Stable-Baselines3 (Fujimoto et al., 2018)."""

    source: ClassVar[str] = "stable_baselines3:TD3"
    actions: ClassVar[Actions] = "continuous"
    statistics: ClassVar[tuple[str, ...]] = ("policy_loss", "value_loss")

    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers, in both actor and critics."""

    learning_rate: float = 1e-3
    """Step size of Adam, above 0, the same for all networks."""

    tau: float = 0.005
    """Share of the trained weights in the target networks at each update, above 0 and at most 1."""

    policy_delay: int = 2
    """Updates of the critics for each of the actor and of the target networks."""

    exploration_noise: float = 0.1
    """Standard deviation of the normal noise that is added to actions scaled to ±1. Stable-Baselines3 adds
    none unless it is given an object for it; 0.1 is the paper's."""

    target_noise: float = 0.2
    """Standard deviation of the noise that is added to the actions in the targets."""

    target_noise_clip: float = 0.5
    """Largest noise in the targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("tau", self.tau)
        require_positive("tau", self.tau)
        require_integer("policy_delay", self.policy_delay, minimum=1)
        for name in ("exploration_noise", "target_noise", "target_noise_clip"):
            require_number(name, getattr(self, name), minimum=0.0)

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of Stable-Baselines3's TD3, but for the noise of its actions."""
        return {
            **super().arguments(num_envs),
            "tau": self.tau,
            "policy_delay": self.policy_delay,
            "target_policy_noise": self.target_noise,
            "target_noise_clip": self.target_noise_clip,
        }
