"""The settings of PPO, checked where they are made, and the published ones for Slippery-Ant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plasticity.agents.networks.image import ACTIVATIONS
from plasticity.checks import nearest, require_integer, require_number

INITIALISATIONS = ("lecun", "orthogonal")
"""How the first weights are drawn, by the name that a configuration gives."""

SCHEDULES = ("constant", "linear")
"""Courses of the learning rate, by the name that a configuration gives."""

ADVANTAGE_NORMALISATIONS = ("rollout", "minibatch", "none")
"""Over what advantages are normalised, by the name that a configuration gives."""


@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns. The defaults are those published for Slippery-Ant (Dohare et al., 2024).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a name is unknown, or two values do not fit together.
    """

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers, of actor and critic alike."""

    activation: Literal["relu", "tanh", "gelu", "leaky-relu", "elu", "silu"] = "relu"
    """Applied after every layer but the last."""

    initialisation: Literal["lecun", "orthogonal"] = "lecun"
    """lecun: weights uniform within sqrt(3 / fan-in), as published for Slippery-Ant. orthogonal: gain
    sqrt(2) in hidden layers, 0.01 in the actor's last and 1 in the critic's, as most PPO code has it.
    Biases start at 0."""

    initial_log_std: float = 0.0
    """Logarithm of the first standard deviation of a continuous action."""

    rollout_steps: int = 2048
    """Environment steps between two updates, those of all environments together."""

    epochs: int = 10
    """Passes over a rollout."""

    minibatch_size: int = 128
    """Steps in a minibatch, a divisor of `rollout_steps`; the published 16 minibatches are of 128."""

    learning_rate: float = 1e-4
    """Step size of Adam, above 0."""

    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: from `learning_rate` at the first update down to 0 after `total_steps`."""

    total_steps: int | None = None
    """Length of the linear schedule in environment steps; needed for it, and by nothing else."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam, each from 0 to below 1. The "non-stationary" preset has (0.99, 0.99)."""

    epsilon: float = 1e-8
    """Of Adam, added to the root of the second moment."""

    gamma: float = 0.99
    """Discount of a step, 0 to 1."""

    gae_lambda: float = 0.95
    """Of generalised advantage estimation, 0 to 1."""

    clip_range: float = 0.2
    """How far the ratio of new to old probability may leave 1 and still have a gradient."""

    value_clip_range: float | None = None
    """How far a value may leave its old one and still have a gradient, in units of return. None:
    as far as it goes."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus in the actor's loss."""

    value_coefficient: float = 1.0
    """Weight of the mean squared error in the critic's loss. Adam hardly sees it, but gradient clipping
    and a coupled decay do."""

    normalize_advantages: Literal["rollout", "minibatch", "none"] = "rollout"
    """To mean 0 and standard deviation 1, over the rollout as published for Slippery-Ant, or over each
    minibatch as Stable-Baselines3 does."""

    normalize_observations: bool = False
    """Shift and scale observations by their running mean and standard deviation, clipped to ±10."""

    normalize_rewards: bool = False
    """Scale rewards by the running standard deviation of the discounted return, clipped to ±10."""

    max_gradient_norm: float | None = None
    """Clip the gradient of actor and critic together to this norm. None: no clipping. The two then wait
    for each other at every minibatch."""

    target_kl: float | None = None
    """Stop the update at a minibatch whose approximate KL is above 1.5 times this. None: never. The host
    then reads a number at every minibatch, and actor and critic wait for each other."""

    compile: bool = False
    """Run an update, all its epochs and minibatches, as one CUDA graph; on CUDA only. The numbers are the
    same to rounding."""

    def __post_init__(self) -> None:
        self._check_network()
        self._check_sizes()
        self._check_rates()
        for name in ("normalize_observations", "normalize_rewards", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}.")
        if self.compile and self.target_kl is not None:
            raise ValueError(
                f"target_kl={self.target_kl} is read by the host at every minibatch, which a captured"
                " update has not: leave out target_kl or compile."
            )
        _require_known("normalize_advantages", self.normalize_advantages, ADVANTAGE_NORMALISATIONS)
        if self.normalize_advantages == "minibatch" and self.minibatch_size == 1:
            raise ValueError(
                'A minibatch of 1 has no standard deviation: use normalize_advantages="rollout".'
            )

    def _check_network(self) -> None:
        if not isinstance(self.hidden, tuple):
            raise TypeError(f"hidden must be a tuple of widths, not {self.hidden!r}.")
        if not self.hidden:
            raise ValueError("A network needs at least one hidden layer: hidden=(256, 256).")
        for width in self.hidden:
            require_integer("a layer's width", width, minimum=1)
        _require_known("activation", self.activation, tuple(ACTIVATIONS))
        _require_known("initialisation", self.initialisation, INITIALISATIONS)
        require_number("initial_log_std", self.initial_log_std, minimum=-20.0, below=20.0)

    def _check_sizes(self) -> None:
        require_integer("epochs", self.epochs, minimum=1)
        require_integer("rollout_steps", self.rollout_steps, minimum=2)
        require_integer("minibatch_size", self.minibatch_size, minimum=1)
        if self.rollout_steps % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} does not divide"
                f" rollout_steps={self.rollout_steps}: all minibatches are of one size. Try"
                f" {_nearest_divisor(self.rollout_steps, self.minibatch_size)}."
            )

    def _check_rates(self) -> None:
        for name in ("learning_rate", "clip_range", "epsilon"):
            _require_positive(name, getattr(self, name))
        for name in ("value_clip_range", "max_gradient_norm", "target_kl"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise TypeError(f"betas must be a tuple of two numbers, not {self.betas!r}.")
        for beta in self.betas:
            require_number("a beta", beta, minimum=0.0, below=1.0)
        for name in ("gamma", "gae_lambda"):
            if require_number(name, getattr(self, name), minimum=0.0) > 1:
                raise ValueError(f"{name} must be at most 1: {getattr(self, name)!r}.")
        for name in ("entropy_coefficient", "value_coefficient"):
            require_number(name, getattr(self, name), minimum=0.0)
        _require_known("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        if self.learning_rate_schedule == "linear":
            if self.total_steps is None:
                raise ValueError(
                    'learning_rate_schedule="linear" needs total_steps, at which the rate is 0.'
                )
            require_integer("total_steps", self.total_steps, minimum=1)
        elif self.total_steps is not None:
            raise ValueError(
                f"total_steps={self.total_steps!r} does nothing with a constant learning rate: leave it"
                ' out, or give learning_rate_schedule="linear".'
            )

    @property
    def num_minibatches(self) -> int:
        """Minibatches in an epoch."""
        return self.rollout_steps // self.minibatch_size

    def learning_rate_at(self, num_steps: int) -> float:
        """The learning rate of the update on a rollout that began at this environment step."""
        if self.total_steps is None:
            return self.learning_rate
        return self.learning_rate * max(0.0, 1.0 - num_steps / self.total_steps)


def _require_known(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"Unknown {name} {value!r}.{nearest(str(value), known)}")


def _require_positive(name: str, value: object) -> None:
    if require_number(name, value, minimum=0.0) == 0:
        raise ValueError(f"{name} must be above 0, not {value!r}.")


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = (d for d in range(1, number + 1) if number % d == 0)
    return min(divisors, key=lambda divisor: abs(divisor - wanted))


PRESETS = {
    "standard": PPOConfig(),
    "non-stationary": PPOConfig(betas=(0.99, 0.99)),
}
"""The published Slippery-Ant settings, which differ in Adam's betas alone (Dohare et al., 2024)."""
