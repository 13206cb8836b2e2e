"""Minibatch updates of R stacked PPO agents: `plasticity.agents.ppo.updates` with a leading axis of R.

An epoch is one function over fixed memory, so that it can be captured as a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.stacked_gradients import StackedDense, StackedDenseGradients
from plasticity.agents.ppo.updates import flushed_denormals, normalized
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import clip_stacked_gradients_


class StackedBatch:
    """Flattened rollout that all agents learn from, in its original order. Fill it before each update.

    Args:
        observations: Observations in the rollout's storage. Shape: (steps * envs, observation_size).
        actions: Actions as sampled, likewise. Shape: (steps * envs, action_size).
    """

    def __init__(self, observations: Tensor, actions: Tensor) -> None:
        self.observations, self.actions = observations, actions
        numbers = observations.new_zeros(4, len(observations))
        self.log_probabilities = numbers[0]
        """Log-probabilities of the actions under the policies that took them. Shape: (steps * envs,)."""
        self.advantages = numbers[1]
        """Advantages of the actions. Shape: (steps * envs,)."""
        self.values = numbers[2]
        """Values before the update. Shape: (steps * envs,)."""
        self.returns = numbers[3]
        """Targets of the values. Shape: (steps * envs,)."""


class StackedUpdate:
    """Optimizer steps of R actors and critics on one rollout, minibatch by minibatch.

    Args:
        actor: Actors, updated in place.
        log_std: Log standard deviations, updated in place. Shape: (R, action_size).
        critic: Critics, updated in place.
        config: Clipping, entropy and sizes of each agent.
        actor_optimizer: Optimizer of the actors' parameters and `log_std`.
        critic_optimizer: Optimizer of the critics' parameters.
        batch: Rollout to learn from.
        num_envs: Number of environments of each agent.
    """

    def __init__(
        self,
        actor: StackedDense,
        log_std: Tensor,
        critic: StackedDense,
        config: PPOConfig,
        actor_optimizer: StackedOptimizer,
        critic_optimizer: StackedOptimizer,
        batch: StackedBatch,
        num_envs: int,
    ) -> None:
        self._config, self._log_std, self._batch = config, log_std, batch
        self._num_envs = num_envs
        self._optimizers = actor_optimizer, critic_optimizer
        self._parameters = [*actor.parameters, log_std, *critic.parameters]
        self._actor = StackedDenseGradients(actor, config.minibatch_size)
        self._critic = StackedDenseGradients(critic, config.minibatch_size)
        num_stacked, new = len(log_std), log_std.new_zeros
        self._shape = (config.num_minibatches, num_stacked, config.minibatch_size)
        self._rows = new(self._shape, dtype=torch.int64)
        self._log_ratios, self._advantages, self._errors = (new(self._shape) for _ in range(3))
        self._going = new(num_stacked, dtype=torch.bool)
        self._done = new(num_stacked, dtype=torch.int64)
        every = (config.epochs, *self._shape)
        self._every_log_ratio, self._every_advantage, self._every_error = (
            new(every) for _ in range(3)
        )
        self.run_epoch: Callable[[], None] = self._epoch
        """Runs an epoch; may be replaced by its captured form."""

    @flushed_denormals()
    def run(self, data_orders: Tensor) -> None:
        """Run all epochs.

        Args:
            data_orders: For each agent, one permutation of the indices step * envs + environment of its own
                rollout per epoch. Shape: (R, epochs, rollout_steps).
        """
        self._going.fill_(True)
        self._done.zero_()
        for epoch, rows in enumerate(self._shared_rows(data_orders)):
            self._rows.copy_(rows)
            self.run_epoch()
            self._every_log_ratio[epoch].copy_(self._log_ratios)
            self._every_advantage[epoch].copy_(self._advantages)
            self._every_error[epoch].copy_(self._errors)

    def _shared_rows(self, data_orders: Tensor) -> Tensor:
        """Convert to rows of the shared batch, (epochs, minibatches, R, minibatch_size)."""
        each = self._num_envs
        minibatches, num_stacked, size = self._shape
        first = torch.arange(num_stacked, device=data_orders.device).view(-1, 1, 1) * each
        shared = data_orders // each * (num_stacked * each) + first + data_orders % each
        return shared.view(num_stacked, -1, minibatches, size).permute(1, 2, 0, 3)

    # ---- an epoch -------------------------------------------------------------------------------

    @torch.no_grad()
    def _epoch(self) -> None:
        """Run one pass over the rollout, in the order given by `_rows`."""
        rows, batch = self._rows.flatten(), self._batch

        def ordered(numbers: Tensor) -> Tensor:
            return numbers.index_select(0, rows).view(*self._shape, *numbers.shape[1:])

        observations, actions = ordered(batch.observations), ordered(batch.actions)
        old, values = ordered(batch.log_probabilities), ordered(batch.values)
        returns = ordered(batch.returns)
        self._advantages.copy_(ordered(batch.advantages))
        if self._config.normalize_advantages == "minibatch":
            self._advantages.copy_(normalized(self._advantages, dim=-1))
        for index in range(self._shape[0]):
            self._actor_gradients(index, observations[index], actions[index], old[index])
            self._critic_gradients(index, observations[index], values[index], returns[index])
            self._step(index)

    def _actor_gradients(
        self, index: int, observations: Tensor, actions: Tensor, old: Tensor
    ) -> None:
        """Set the actors' gradients, as `ActorUpdate` does.

        With z = (a - mean) / std, d log p / d mean = z / std and d log p / d log_std = z^2 - 1.
        """
        log_std, config = self._log_std, self._config
        inverse_std = torch.exp(-log_std).unsqueeze(1)
        means = self._actor.forward(observations)
        deviations = (actions - means).mul_(inverse_std)
        squares = deviations.square()
        rest = old + log_std.sum(1, keepdim=True) + _half_log_tau(log_std)
        log_ratios, advantages = self._log_ratios[index], self._advantages[index]
        torch.sub(squares.sum(-1).mul_(-0.5), rest, out=log_ratios)
        ratios, signs = log_ratios.exp(), advantages.sign()
        # (r - 1) sign(A) <= range: the clipping is inactive
        unclipped = ratios * signs <= signs + config.clip_range
        weights = ratios.mul_(advantages).mul_(unclipped).mul_(-1 / config.minibatch_size)
        log_std.grad = torch.bmm(weights.unsqueeze(1), squares.sub_(1)).squeeze(1)
        log_std.grad.sub_(config.entropy_coefficient)  # d entropy / d log_std = 1
        self._actor.backward(deviations.mul_(weights.unsqueeze(-1)).mul_(inverse_std))

    def _critic_gradients(
        self, index: int, observations: Tensor, old: Tensor, returns: Tensor
    ) -> None:
        """Set the critics' gradients, as `CriticUpdate` does."""
        config, errors = self._config, self._errors[index]
        values = self._critic.forward(observations).squeeze(-1)
        scale = 2 * config.value_coefficient / config.minibatch_size
        clip_range = config.value_clip_range
        if clip_range is None:
            torch.sub(values, returns, out=errors)
            gradient = errors * scale
        else:
            change = values - old
            torch.sub(old + change.clamp(-clip_range, clip_range), returns, out=errors)
            gradient = (errors * scale).mul_(change.abs() <= clip_range)
        self._critic.backward(gradient.unsqueeze(-1))

    def _step(self, index: int) -> None:
        """Step the agents that continue; one that exceeded its target KL is left as it was before."""
        config = self._config
        self._done += self._going
        if config.target_kl is not None:
            self._going &= ~(_k3(self._log_ratios[index]).mean(-1) > 1.5 * config.target_kl)
        if config.max_gradient_norm is not None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            clip_stacked_gradients_(gradients, config.max_gradient_norm)
        for optimizer in self._optimizers:
            optimizer.step(None if config.target_kl is None else self._going)

    # ---- statistics -----------------------------------------------------------------------------

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """Return the statistics of `ActorUpdate` and `CriticUpdate` over each agent's minibatches, (R,)."""
        log_ratios, advantages, errors = (
            each.flatten(0, 1)
            for each in (self._every_log_ratio, self._every_advantage, self._every_error)
        )
        ratios, clip_range = log_ratios.exp(), self._config.clip_range
        clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
        number = torch.arange(len(log_ratios), device=log_ratios.device).unsqueeze(1)
        minibatches = self._shape[0]
        counted = number < self._done
        last = counted & (number >= (self._done - 1) // minibatches * minibatches)
        gain = torch.minimum(advantages * ratios, advantages * clipped)
        return {
            "value_loss": _mean(errors.square(), counted),
            "policy_loss": -_mean(gain, counted),
            "clip_fraction": _mean(((ratios - 1).abs() > clip_range).to(ratios.dtype), counted),
            "approximate_kl": _mean(_k3(log_ratios), last),
        }


def stacked_log_probabilities(means: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Return the log-density of actions, (..., R, envs, action_size) to (..., R, envs)."""
    deviations = (actions - means) * torch.exp(-log_std).unsqueeze(1)
    summed = log_std.sum(1, keepdim=True)
    return -0.5 * deviations.square().sum(-1) - summed - _half_log_tau(log_std)


def stacked_entropies(log_std: Tensor) -> Tensor:
    """Return the entropies in nats. Shape: (R, action_size) to (R,)."""
    return log_std.sum(1) + 0.5 * log_std.shape[1] + _half_log_tau(log_std)


def _half_log_tau(log_std: Tensor) -> float:
    return 0.5 * log_std.shape[1] * math.log(2 * math.pi)


def _k3(log_ratios: Tensor) -> Tensor:
    return log_ratios.exp() - 1 - log_ratios


def _mean(numbers: Tensor, counted: Tensor) -> Tensor:
    """Average over the counted minibatches, (minibatches, R, size) and (minibatches, R) to (R,)."""
    kept = torch.where(counted, numbers.mean(-1), 0.0)
    return kept.sum(0) / counted.sum(0)
