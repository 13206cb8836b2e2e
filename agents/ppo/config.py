"""Settings of PPO, validated on creation, and the presets published for Slippery-Ant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plasticity.agents.networks.images import IMAGE_NETWORKS, ImageNetwork
from plasticity.agents.networks.layers import ACTIVATIONS, Activation
from plasticity.checks import nearest, require_betas, require_bool, require_integer, require_number
from plasticity.optim.kernels.step import KERNELS, Kernel

INITIALIZATIONS = ("lecun", "orthogonal", "kaiming", "xavier", "torch")
"""Initialization schemes by their name in a configuration."""

SCHEDULES = ("constant", "linear")
"""Learning rate schedules by their name in a configuration."""

ADVANTAGE_NORMALISATIONS = ("rollout", "minibatch", "none")
"""Scopes of advantage normalization by their name in a configuration."""


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. The defaults are those published for Slippery-Ant (Dohare et al., 2024).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a name is unknown, or two values are incompatible.

    Examples:
        >>> PPOConfig(learning_rate=3e-4, hidden=(64, 64)).learning_rate
        0.0003
    """

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden dense layers, in both actor and critic; after any convolutions."""

    image_network: ImageNetwork | None = None
    """Convolutions of actor and critic, each of which has its own. nature: those of Mnih et al. (2015), with
    hidden layers of (512,) there. impala: the small residual network of Espeholt et al. (2018), with (256,).
    minatar: one convolution of 16 channels, for 10 x 10 planes (Young & Tian, 2019), with (128,). None:
    observations are vectors. Images are uint8, and divided by their largest value."""

    activation: Activation = "relu"
    """Activation applied after every layer except the last."""

    initialization: Literal["lecun", "orthogonal", "kaiming", "xavier", "torch"] = "lecun"
    """Scheme of the initial weights. lecun: uniform within sqrt(3 / fan-in), as published for Slippery-Ant.
    orthogonal: gain sqrt(2) in hidden layers, 0.01 in the actor's last layer and 1 in the critic's, as in
    most PPO implementations. kaiming: normal, with the same gains. xavier: uniform, with a gain of 1 in
    hidden layers and the same ones in the last. Biases start at 0. torch: weights and biases as torch draws
    them, uniform within 1 / sqrt(fan-in), also in the last layer."""

    initial_log_std: float = 0.0
    """Logarithm of the initial standard deviation of a continuous action."""

    rollout_steps: int = 2048
    """Environment steps between two updates, summed over all environments."""

    epochs: int = 10
    """Passes over a rollout."""

    minibatch_size: int = 128
    """Steps in a minibatch, a divisor of `rollout_steps`; the published 16 minibatches have 128 each."""

    learning_rate: float = 1e-4
    """Step size of Adam, above 0."""

    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Schedule of the learning rate. linear: from `learning_rate` at the first update down to 0 after
    `total_steps`."""

    total_steps: int | None = None
    """Length of the linear schedule in environment steps; required for it, and not allowed otherwise."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's betas, each at least 0 and below 1. The "non-stationary" preset has (0.99, 0.99)."""

    epsilon: float = 1e-8
    """Adam's epsilon, added to the root of the second moment."""

    gamma: float = 0.99
    """Discount per step, 0 to 1."""

    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation, 0 to 1."""

    clip_range: float = 0.2
    """Maximum distance from 1 at which the ratio of new to old probability still has a gradient."""

    value_clip_range: float | None = None
    """Maximum distance from its old value at which a value still has a gradient, in units of return.
    None: no clipping."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus in the actor's loss."""

    value_coefficient: float = 1.0
    """Weight of the mean squared error in the critic's loss. Adam is nearly invariant to it, but gradient
    clipping and a coupled decay are not."""

    normalize_advantages: Literal["rollout", "minibatch", "none"] = "rollout"
    """Scope of normalizing advantages to mean 0 and standard deviation 1: the rollout, as published for
    Slippery-Ant, or each minibatch, as in Stable-Baselines3."""

    normalize_observations: bool = False
    """Whether to shift and scale observations by their running mean and standard deviation, clipped to
    ±10."""

    normalize_rewards: bool = False
    """Whether to scale rewards by the running standard deviation of the discounted return, clipped to ±10."""

    reward_scale: float = 1.0
    """Factor of the rewards that are learned from, above 0; returns are reported without it. C-CHAIN divides
    those of Gym control by 20: 0.05."""

    max_gradient_norm: float | None = None
    """Norm to which the joint gradient of actor and critic is clipped. None: no clipping. With clipping, the
    two wait for each other at every minibatch."""

    target_kl: float | None = None
    """Target of the approximate KL: the update stops at a minibatch above 1.5 times this. None: never. With a
    target, the host reads a number at every minibatch, and actor and critic wait for each other."""

    compile: bool = False
    """Whether to run an update, with all its epochs and minibatches, as one CUDA graph; on CUDA only. The
    numbers agree up to rounding."""

    kernel: Kernel = "eager"
    """Implementation of the optimizer's step and its decay. eager: torch's own. triton: kernels in Triton,
    for a CUDA device. triton-drawn: kernels that draw syre's anchors at every step and never store them. The
    numbers agree up to rounding. With a kernel, runs are not stacked: the stack has a step of its own."""

    def __post_init__(self) -> None:
        self._check_network()
        self._check_sizes()
        self._check_rates()
        for name in ("normalize_observations", "normalize_rewards", "compile"):
            require_bool(name, getattr(self, name))
        if self.compile and self.target_kl is not None:
            raise ValueError(
                f"target_kl={self.target_kl} is read by the host at every minibatch, which a captured update"
                " cannot do: leave out target_kl or compile."
            )
        _require_known("kernel", self.kernel, KERNELS)
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
        if self.image_network is not None:
            _require_known("image_network", self.image_network, IMAGE_NETWORKS)
            if self.normalize_observations:
                raise ValueError(
                    f"image_network={self.image_network!r} sees images from 0 to 1, which are not normalized"
                    " by running statistics: leave out normalize_observations."
                )
        _require_known("activation", self.activation, tuple(ACTIVATIONS))
        _require_known("initialization", self.initialization, INITIALIZATIONS)
        require_number("initial_log_std", self.initial_log_std, minimum=-20.0, below=20.0)

    def _check_sizes(self) -> None:
        require_integer("epochs", self.epochs, minimum=1)
        require_integer("rollout_steps", self.rollout_steps, minimum=2)
        require_integer("minibatch_size", self.minibatch_size, minimum=1)
        if self.rollout_steps % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} does not divide"
                f" rollout_steps={self.rollout_steps}: all minibatches must have the same size. Try"
                f" {_nearest_divisor(self.rollout_steps, self.minibatch_size)}."
            )

    def _check_rates(self) -> None:
        for name in ("learning_rate", "clip_range", "epsilon", "reward_scale"):
            _require_positive(name, getattr(self, name))
        for name in ("value_clip_range", "max_gradient_norm", "target_kl"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        if self.normalize_rewards and self.reward_scale != 1:
            raise ValueError(
                f"reward_scale={self.reward_scale!r} has no effect on rewards that are scaled by their own"
                " deviation: leave out reward_scale or normalize_rewards."
            )
        require_betas("betas", self.betas)
        for name in ("gamma", "gae_lambda"):
            if require_number(name, getattr(self, name), minimum=0.0) > 1:
                raise ValueError(f"{name} must be at most 1: {getattr(self, name)!r}.")
        for name in ("entropy_coefficient", "value_coefficient"):
            require_number(name, getattr(self, name), minimum=0.0)
        _require_known("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        if self.learning_rate_schedule == "linear":
            if self.total_steps is None:
                raise ValueError(
                    'learning_rate_schedule="linear" needs total_steps, at which the rate reaches 0: give it.'
                )
            require_integer("total_steps", self.total_steps, minimum=1)
        elif self.total_steps is not None:
            raise ValueError(
                f"total_steps={self.total_steps!r} has no effect with a constant learning rate: leave it"
                ' out, or give learning_rate_schedule="linear".'
            )

    @property
    def num_minibatches(self) -> int:
        """Number of minibatches in an epoch."""
        return self.rollout_steps // self.minibatch_size

    def learning_rate_at(self, num_steps: int) -> float:
        """Return the learning rate of the update on a rollout that began at this environment step."""
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
"""Settings published for Slippery-Ant, which differ only in Adam's betas (Dohare et al., 2024)."""
