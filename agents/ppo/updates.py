"""Minibatch updates of PPO (Schulman et al., 2017): the actor's half and the critic's half.

The two halves share only the rollout and its data order, so each can run by itself, in a separate process,
unless a joint gradient norm or a target KL couples them. The gradients of the losses with respect to the
networks' outputs are written out explicitly, each with its formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from plasticity.agents.networks.actor_critic import ActorCritic, DenseNetwork
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.dense_gradients import DenseGradients
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.parameter_groups import parameter_groups
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings


@dataclass(frozen=True)
class ActorBatch:
    """Flattened rollout that the actor learns from."""

    observations: Tensor
    """Observations. Shape: (rollout_steps, observation_size)."""

    actions: Tensor
    """Actions as sampled, before any clipping. Shape: (rollout_steps, action_size), or (rollout_steps,) for
    integers."""

    log_probabilities: Tensor
    """Log-probabilities of the actions under the policy that took them. Shape: (rollout_steps,)."""

    advantages: Tensor
    """Advantages of the actions. Shape: (rollout_steps,)."""


@dataclass(frozen=True)
class CriticBatch:
    """Flattened rollout that the critic learns from."""

    observations: Tensor
    """Observations. Shape: (rollout_steps, observation_size)."""

    values: Tensor
    """Values before the update. Shape: (rollout_steps,)."""

    returns: Tensor
    """Targets of the values. Shape: (rollout_steps,)."""


def gaussian_log_probability(means: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Return the log-density of actions, (..., action_size) to (...); log_std has shape (action_size,)."""
    deviations = (actions - means) * torch.exp(-log_std)
    return -0.5 * deviations.square().sum(-1) - log_std.sum() - _half_log_tau(log_std)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Return the entropy in nats of a Gaussian with diagonal covariance. Shape: (action_size,) to ()."""
    return log_std.sum() + 0.5 * log_std.numel() + _half_log_tau(log_std)


def _half_log_tau(log_std: Tensor) -> float:
    return 0.5 * log_std.numel() * math.log(2 * math.pi)


class ActorUpdate:
    """Clipped policy gradient steps on one rollout.

    Args:
        policy: Policy whose actor and `log_std` are updated in place.
        config: Clipping, entropy and sizes.
        optimizer: Optimizer created by `actor_optimizer`.
    """

    def __init__(
        self, policy: ActorCritic, config: PPOConfig, optimizer: RegularizedOptimizer
    ) -> None:
        self.optimizer = optimizer
        self._config = config
        self._log_std = policy.log_std
        self._network = DenseGradients(policy.actor, config.minibatch_size)
        weight = policy.actor.head.weight
        self._ones = weight.new_ones(policy.actor.head.out_features)
        shape = (config.epochs, config.num_minibatches, config.minibatch_size)
        self._log_ratios = weight.new_zeros(shape)
        self._advantages = weight.new_zeros(shape)
        self._done = 0

    def begin(self, batch: ActorBatch, learning_rate: float | Tensor) -> None:
        """Start the update on a new rollout."""
        self._batch = batch
        self._done = 0
        set_learning_rate(self.optimizer, learning_rate)
        if self._config.normalize_advantages == "rollout":
            self._batch = ActorBatch(
                batch.observations,
                batch.actions,
                batch.log_probabilities,
                normalized(batch.advantages, dim=0),
            )

    def begin_epoch(self, data_order: Tensor) -> None:
        """Permute the rollout, so that each minibatch is a slice. Shape: (rollout_steps,)."""
        epoch = self._done // self._config.num_minibatches
        size = self._config.minibatch_size
        self._observations = torch.split(self._batch.observations[data_order], size)
        self._actions = torch.split(self._batch.actions[data_order], size)
        self._old = torch.split(self._batch.log_probabilities[data_order], size)
        advantages = self._advantages[epoch]
        advantages.copy_(self._batch.advantages[data_order].view_as(advantages))
        if self._config.normalize_advantages == "minibatch":
            advantages.copy_(normalized(advantages, dim=1))
        self._signs = advantages.sign()
        self._limits = self._signs + self._config.clip_range

    @torch.no_grad()
    def compute_gradients(self, index: int) -> None:
        """Set `.grad` for a minibatch of the epoch.

        The loss is -mean(min(A r, A clip(r))) - entropy_coefficient * mean(entropy), with r the ratio
        of new to old probability. Its derivative with respect to log r is w = -A r / size where the clipping
        is inactive, that is, where r - 1 is within the range or its sign is opposite to the advantage's, and
        0 elsewhere.
        """
        epoch = self._done // self._config.num_minibatches
        log_ratios = self._log_ratios[epoch, index]
        outputs = self._network.forward(self._observations[index])
        if self._log_std is None:
            gradient = self._categorical(outputs, index, epoch, log_ratios)
        else:
            gradient = self._gaussian(self._log_std, outputs, index, epoch, log_ratios)
        self._network.backward(gradient)
        self._done += 1

    def _gaussian(
        self, log_std: Tensor, means: Tensor, index: int, epoch: int, log_ratios: Tensor
    ) -> Tensor:
        """Return the gradient with respect to the means and set that of `log_std`.

        With z = (a - mean) / std, d log p / d mean = z / std and d log p / d log_std = z^2 - 1.
        """
        inverse_std = torch.exp(-log_std)
        deviations = (self._actions[index] - means).mul_(inverse_std)
        squares = deviations.square()
        rest = self._old[index] + (log_std.sum() + _half_log_tau(log_std))
        torch.addmv(rest, squares, self._ones, alpha=-0.5, beta=-1, out=log_ratios)
        weights = self._weights(index, epoch, log_ratios)
        # d entropy / d log_std = 1
        log_std.grad = torch.mv(squares.sub_(1).t(), weights) - self._config.entropy_coefficient
        return deviations.mul_(weights.unsqueeze(1)).mul_(inverse_std)

    def _categorical(self, logits: Tensor, index: int, epoch: int, log_ratios: Tensor) -> Tensor:
        """Return the gradient with respect to the logits.

        With p = softmax(logits), d log p_a / d logits = onehot(a) - p.
        """
        actions = self._actions[index].unsqueeze(1)
        log_probabilities = torch.log_softmax(logits, dim=1)
        torch.sub(log_probabilities.gather(1, actions).squeeze(1), self._old[index], out=log_ratios)
        weights = self._weights(index, epoch, log_ratios).unsqueeze(1)
        probabilities = log_probabilities.exp()
        gradient = (-weights * probabilities).scatter_add_(1, actions, weights)
        if self._config.entropy_coefficient:  # d entropy / d logits = -p (log p + entropy)
            entropy = -(probabilities * log_probabilities).sum(1, keepdim=True)
            scale = self._config.entropy_coefficient / self._config.minibatch_size
            gradient.add_(probabilities * (log_probabilities + entropy), alpha=scale)
        return gradient

    def _weights(self, index: int, epoch: int, log_ratios: Tensor) -> Tensor:
        ratios = log_ratios.exp()
        # (r - 1) sign(A) <= range, with the precomputed terms on the right-hand side
        unclipped = ratios * self._signs[index] <= self._limits[index]
        weights = ratios.mul_(self._advantages[epoch, index]).mul_(unclipped)
        return weights.mul_(-1 / self._config.minibatch_size)

    def approximate_kl(self) -> Tensor:
        """Return the KL from old to new policy on the latest minibatch, the mean of r - 1 - log r (k3)."""
        return _k3(self._log_ratios.flatten(0, 1)[self._done - 1])

    def statistics(self) -> dict[str, Tensor]:
        """Return policy_loss and clip_fraction, averaged over all minibatches so far, and approximate_kl.

        The last is averaged over the last epoch only. Shape of each: ().
        """
        log_ratios = self._log_ratios.flatten(0, 1)[: self._done]
        advantages = self._advantages.flatten(0, 1)[: self._done]
        ratios, clip_range = log_ratios.exp(), self._config.clip_range
        clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
        last_epoch = (self._done - 1) // self._config.num_minibatches * self._config.num_minibatches
        return {
            "policy_loss": -torch.minimum(advantages * ratios, advantages * clipped).mean(),
            "clip_fraction": ((ratios - 1).abs() > clip_range).to(ratios.dtype).mean(),
            "approximate_kl": _k3(log_ratios[last_epoch:]),
        }


class CriticUpdate:
    """Squared-error steps of the critic on one rollout.

    Args:
        critic: Critic, updated in place.
        config: Clipping and sizes.
        optimizer: Optimizer created by `critic_optimizer`.
    """

    def __init__(
        self, critic: DenseNetwork, config: PPOConfig, optimizer: RegularizedOptimizer
    ) -> None:
        self.optimizer = optimizer
        self._config = config
        self._network = DenseGradients(critic, config.minibatch_size)
        shape = (config.epochs, config.num_minibatches, config.minibatch_size)
        self._errors = critic.head.weight.new_zeros(shape)
        self._done = 0

    def begin(self, batch: CriticBatch, learning_rate: float | Tensor) -> None:
        """Start the update on a new rollout."""
        self._batch = batch
        self._done = 0
        set_learning_rate(self.optimizer, learning_rate)

    def begin_epoch(self, data_order: Tensor) -> None:
        """Permute the rollout, so that each minibatch is a slice. Shape: (rollout_steps,)."""
        size = self._config.minibatch_size
        self._observations = torch.split(self._batch.observations[data_order], size)
        self._values = torch.split(self._batch.values[data_order], size)
        self._returns = torch.split(self._batch.returns[data_order], size)

    @torch.no_grad()
    def compute_gradients(self, index: int) -> None:
        """Set `.grad` for a minibatch of the epoch.

        The loss is value_coefficient * mean((V - R)^2), and its derivative with respect to V is
        2 * value_coefficient * (V - R) / size. With value clipping, V is the old value plus the clipped
        change, and the derivative is 0 where the clipping is active.
        """
        values = self._network.forward(self._observations[index]).squeeze(1)
        clip_range = self._config.value_clip_range
        errors = self._errors[self._done // self._config.num_minibatches, index]
        scale = 2 * self._config.value_coefficient / self._config.minibatch_size
        if clip_range is None:
            torch.sub(values, self._returns[index], out=errors)
            gradient = errors * scale
        else:
            change = values - self._values[index]
            clipped = change.clamp(-clip_range, clip_range)
            torch.sub(self._values[index] + clipped, self._returns[index], out=errors)
            gradient = (errors * scale).mul_(change.abs() <= clip_range)
        self._network.backward(gradient.unsqueeze(1))
        self._done += 1

    def statistics(self) -> dict[str, Tensor]:
        """Return value_loss, the mean squared error over the minibatches so far, ()."""
        return {"value_loss": self._errors.flatten(0, 1)[: self._done].square().mean()}


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush numbers below 1.2e-38 to 0 on this thread's CPU, inside the block.

    Adam's moments of a dead unit decay to such numbers, on which a CPU is about ten times slower: without
    this, a network slows down as its units die (measured: an Adam step of 0.07 ms takes up to 1.4 ms).
    """
    before = bool(torch.full((), 1e-40) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@flushed_denormals()
def run_half(
    half: ActorUpdate | CriticUpdate, data_orders: Sequence[Tensor], num_minibatches: int
) -> None:
    """Run all epochs of one half, after its `begin`."""
    for data_order in data_orders:
        half.begin_epoch(data_order)
        for index in range(num_minibatches):
            half.compute_gradients(index)
            half.optimizer.step()


@flushed_denormals()
def run_coupled(
    actor: ActorUpdate, critic: CriticUpdate, data_orders: Sequence[Tensor], config: PPOConfig
) -> None:
    """Run all epochs of both halves, minibatch by minibatch, after their `begin`.

    The gradient norm is clipped over both networks. Both stop at the first minibatch above the target KL,
    without taking its step.
    """
    parameters = [
        parameter
        for half in (actor, critic)
        for group in half.optimizer.param_groups
        for parameter in group["params"]
    ]
    for data_order in data_orders:
        actor.begin_epoch(data_order)
        critic.begin_epoch(data_order)
        for index in range(config.num_minibatches):
            actor.compute_gradients(index)
            critic.compute_gradients(index)
            if config.target_kl is not None and actor.approximate_kl() > 1.5 * config.target_kl:
                return
            if config.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
            actor.optimizer.step()
            critic.optimizer.step()


def update_both(
    actor: ActorUpdate,
    critic: CriticUpdate,
    batches: tuple[ActorBatch, CriticBatch],
    data_orders: Sequence[Tensor],
    learning_rate: float | Tensor,
    config: PPOConfig,
) -> dict[str, Tensor]:
    """Run a whole update of both halves and return the statistics of both."""
    actor.begin(batches[0], learning_rate)
    critic.begin(batches[1], learning_rate)
    if config.max_gradient_norm is None and config.target_kl is None:
        run_half(actor, data_orders, config.num_minibatches)
        run_half(critic, data_orders, config.num_minibatches)
    else:
        run_coupled(actor, critic, data_orders, config)
    return critic.statistics() | actor.statistics()


def actor_optimizer(
    policy: ActorCritic, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the actor and its `log_std`, which is not regularized."""
    groups = _groups(policy.actor, regularizer)
    if policy.log_std is not None:
        groups.append({"params": [policy.log_std], "regularizer": "none", "strength": 0.0})
    return _adam(groups, policy.actor, config)


def critic_optimizer(
    critic: DenseNetwork, config: PPOConfig, regularizer: RegularizerSettings
) -> RegularizedOptimizer:
    """Create Adam over the critic."""
    return _adam(_groups(critic, regularizer), critic, config)


def _groups(network: DenseNetwork, regularizer: RegularizerSettings) -> list[dict[str, object]]:
    settings = {field.name: getattr(regularizer, field.name) for field in fields(regularizer)}
    return parameter_groups(network, **settings)


def _adam(
    groups: list[dict[str, object]], network: DenseNetwork, config: PPOConfig
) -> RegularizedOptimizer:
    device = network.head.weight.device.type
    return regularized(torch.optim.Adam)(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        # One kernel instead of a few per tensor, where torch supports it.
        fused=device in ("cpu", "cuda", "mps"),
        capturable=config.compile and device == "cuda",
    )


def set_learning_rate(optimizer: RegularizedOptimizer, learning_rate: float | Tensor) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def normalized(advantages: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Normalize to mean 0 and standard deviation 1 over these dimensions."""
    deviation, mean = torch.std_mean(advantages, dim=dim, keepdim=True)
    return (advantages - mean) / (deviation + 1e-8)


def _k3(log_ratios: Tensor) -> Tensor:
    return (log_ratios.exp() - 1 - log_ratios).mean()
