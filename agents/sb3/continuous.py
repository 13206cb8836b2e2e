"""Settings of the algorithms for continuous actions that learn from a replay buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from plasticity.agents.networks.base import require_widths
from plasticity.agents.sb3.config import Actions, algorithm, require_positive, require_share
from plasticity.agents.sb3.off_policy import OffPolicyConfig
from plasticity.checks import require_integer, require_number


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
