"""Settings of Stable-Baselines3's algorithms: what all have in common, their registry, and PPO's.

The names are those of this package; `SB3Config.arguments` translates them. Defaults are those of
Stable-Baselines3, unless a docstring says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from plasticity.agents.networks.base import require_widths
from plasticity.agents.networks.layers import ACTIVATIONS, Activation
from plasticity.checks import require_bool, require_integer, require_known, require_number

Actions = Literal["discrete", "continuous", "any"]
"""Kinds of actions that an algorithm can take."""

_Kind = TypeVar("_Kind", bound="type[SB3Config]")


@dataclass(frozen=True, kw_only=True)
class SB3Config(ABC):
    """Settings that all algorithms have.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a name is unknown, or two values are incompatible.
    """

    source: ClassVar[str]
    """Class of the algorithm, as "module:Class"; `algorithm_class` imports it when it is needed."""

    actions: ClassVar[Actions]
    """Kind of actions that the algorithm takes."""

    statistics: ClassVar[tuple[str, ...]]
    """Names of the numbers about its learning that a row has, besides `learning_rate`."""

    algorithm: str = field(init=False, default="")
    """Name of the algorithm after `--agent`, given by `@algorithm`."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, in both actor and critic."""

    activation: Activation = "relu"
    """Activation applied after every layer except the last."""

    learning_rate: float = 3e-4
    """Step size of Adam, above 0, the same for all networks."""

    batch_size: int = 256
    """Steps in a minibatch."""

    gamma: float = 0.99
    """Discount per step, 0 to 1."""

    def __post_init__(self) -> None:
        require_widths("hidden", self.hidden, "(64, 64)")
        require_known("activation", self.activation, ACTIVATIONS)
        require_positive("learning_rate", self.learning_rate)
        require_integer("batch_size", self.batch_size, minimum=1)
        require_share("gamma", self.gamma)

    @abstractmethod
    def round_steps(self, num_envs: int) -> int:
        """Return the environment steps, summed over all environments, from one update to the next.

        Args:
            num_envs: Number of environments.
        """

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of the algorithm's class, under Stable-Baselines3's names.

        Args:
            num_envs: Number of environments.
        """
        return {
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "gamma": self.gamma,
        }

    def policy_arguments(self) -> dict[str, Any]:
        """Return the arguments of the policy's class, but for its activation."""
        return {"net_arch": list(self.hidden)}

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return the arguments of Adam that Stable-Baselines3 derives from other settings."""
        return {}


ALGORITHMS: dict[str, type[SB3Config]] = {}
"""Classes of settings, by the name of the algorithm after `--agent`."""


def algorithm(name: str) -> Callable[[_Kind], _Kind]:
    """Register the settings of an algorithm under its name.

    Raises:
        ValueError: if the name is taken.
    """

    def register(kind: _Kind) -> _Kind:
        if name in ALGORITHMS:
            raise ValueError(f"There is an algorithm {name!r} already: give another name.")
        kind.algorithm = name
        ALGORITHMS[name] = kind
        return kind

    return register


@algorithm("sb3:ppo")
@dataclass(frozen=True, kw_only=True)
class SB3PPOConfig(SB3Config):
    """PPO of Stable-Baselines3 (Schulman et al., 2017).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range or a name is unknown.
    """

    source: ClassVar[str] = "stable_baselines3:PPO"
    actions: ClassVar[Actions] = "any"
    statistics: ClassVar[tuple[str, ...]] = (
        "policy_entropy",
        "explained_variance",
        "policy_loss",
        "value_loss",
        "clip_fraction",
        "approximate_kl",
    )

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, in both actor and critic."""

    activation: Activation = "tanh"
    """Activation applied after every layer except the last."""

    batch_size: int = 64
    """Steps in a minibatch; the last one of an epoch has fewer if it does not divide `rollout_steps`."""

    rollout_steps: int = 2048
    """Environment steps between two updates, summed over all environments. A benchmark begins with the
    number of its own PPO; Stable-Baselines3 counts those of each environment, 2048."""

    epochs: int = 10
    """Passes over a rollout."""

    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation, 0 to 1."""

    clip_range: float = 0.2
    """Maximum distance from 1 at which the ratio of new to old probability still has a gradient."""

    value_clip_range: float | None = None
    """Maximum distance from its old value at which a value still has a gradient, in units of return.
    None: no clipping."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus in the loss."""

    value_coefficient: float = 0.5
    """Weight of the mean squared error of the values in the loss."""

    max_gradient_norm: float = 0.5
    """Norm to which the joint gradient of actor and critic is clipped."""

    normalize_advantages: bool = True
    """Whether to normalize the advantages of each minibatch."""

    target_kl: float | None = None
    """Target of the approximate KL: the update stops at a minibatch above 1.5 times this. None: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("rollout_steps", self.rollout_steps, minimum=2)
        require_integer("epochs", self.epochs, minimum=1)
        require_share("gae_lambda", self.gae_lambda)
        require_bool("normalize_advantages", self.normalize_advantages)
        for name in ("clip_range", "max_gradient_norm"):
            require_positive(name, getattr(self, name))
        for name in ("value_clip_range", "target_kl"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        for name in ("entropy_coefficient", "value_coefficient"):
            require_number(name, getattr(self, name), minimum=0.0)
        if self.normalize_advantages and self.batch_size == 1:
            raise ValueError(
                "A minibatch of 1 has no standard deviation: give a larger batch_size, or"
                " normalize_advantages=False."
            )

    def round_steps(self, num_envs: int) -> int:
        """Return the steps of a rollout."""
        return self.rollout_steps

    def arguments(self, num_envs: int) -> dict[str, Any]:
        """Return the arguments of Stable-Baselines3's PPO.

        Raises:
            ValueError: if the environments cannot share a rollout evenly.
        """
        if self.rollout_steps % num_envs:
            raise ValueError(
                f"rollout_steps {self.rollout_steps} cannot be shared by {num_envs} environments: give"
                " a multiple of num_envs."
            )
        return {
            **super().arguments(num_envs),
            "n_steps": self.rollout_steps // num_envs,
            "n_epochs": self.epochs,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip_range,
            "clip_range_vf": self.value_clip_range,
            "ent_coef": self.entropy_coefficient,
            "vf_coef": self.value_coefficient,
            "max_grad_norm": self.max_gradient_norm,
            "normalize_advantage": self.normalize_advantages,
            "target_kl": self.target_kl,
        }


def require_positive(name: str, value: object) -> None:
    """Raise an error unless a setting is a finite number above 0."""
    if require_number(name, value, minimum=0.0) == 0:
        raise ValueError(f"{name} must be above 0, not {value!r}.")


def require_share(name: str, value: object) -> None:
    """Raise an error unless a setting is a number from 0 to 1."""
    if require_number(name, value, minimum=0.0) > 1:
        raise ValueError(f"{name} must be at most 1: {value!r}.")
