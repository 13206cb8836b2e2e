"""Minibatch updates of PPO (Schulman et al., 2017): the actor's half and the critic's half.

The two halves share only the rollout and its data order, so each can run by itself, in a separate process,
unless a joint gradient norm or a target KL couples them. The gradients of the losses with respect to the
networks' outputs are written out explicitly, each with its formula.

Everything has leading dimensions `*lead`: none for one policy, (R,) for R stacked ones. A half learns from
slices of a rollout that was permuted to minibatches of shape (minibatches, *lead, minibatch_size, …).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plasticity.agents.execution.denormals import flushed_denormals
from plasticity.agents.execution.single import SingleOptimizer
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.distributions import distribution_of
from plasticity.agents.ppo.gradients import Gradients
from plasticity.mitigations.hooks import Hooks
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import clip_stacked_gradients_


class Half:
    """Bookkeeping that the updates of actor and critic share.

    Args:
        network: Network, or stacked networks, updated in place.
        optimizer: Optimizer of the parameters, or a stack of them.
        config: Clipping, entropy and sizes of each policy.
        hooks: Mitigations that act on the network; None: there are none.
    """

    def __init__(
        self,
        network: Gradients,
        optimizer: SingleOptimizer | StackedOptimizer,
        config: PPOConfig,
        hooks: Hooks | None = None,
    ) -> None:
        self.optimizer, self.hooks = optimizer, hooks
        self.parameters = network.parameters
        """Parameters with a gradient. Shape of each: (*lead, *shape)."""
        self.lead: tuple[int, ...] = ()
        """Leading dimensions of all tensors."""
        if isinstance(optimizer, StackedOptimizer):
            self.lead = (optimizer.num_stacked,)
        self._network, self.config = network, config
        self._shape = (config.num_minibatches, *self.lead, config.minibatch_size)
        self._done = 0

    def _begin_hooks(self, observations: Tensor) -> None:
        if self.hooks is not None:
            self.hooks.begin(lambda: observations)

    def _forward(self, observations: Tensor) -> Tensor:
        """Return the outputs for a minibatch, and show it to the mitigations."""
        if self.hooks is None:
            return self._network.forward(observations)
        outputs = self._network.forward(observations, self.hooks.recorded_layers)
        self.hooks.observe(observations, self._network.layer_inputs)
        return outputs

    def _backward(self, gradient: Tensor) -> None:
        """Set `.grad`, given the gradient with respect to the outputs of the last `_forward`."""
        self._network.backward(gradient, None if self.hooks is None else self.hooks.penalty())

    def take_step(self, active: Tensor | None = None) -> None:
        """Take a step of the optimizer, by the gradients that are there, and let the mitigations act.

        Args:
            active: As in `StackedOptimizer.step`.
        """
        if self.hooks is not None:
            self.hooks.before_step()
        self.optimizer.step(active)
        if self.hooks is not None:
            self.hooks.after_step()

    def _zeros(self) -> Tensor:
        """Return memory for a number of each step, (epochs, minibatches, *lead, minibatch_size)."""
        return self.parameters[0].new_zeros(self.config.epochs, *self._shape)

    def _split(self, numbers: Tensor, rows: Tensor) -> Tensor:
        """Permute to minibatches, (*lead, N, …) to (minibatches, *lead, minibatch_size, …)."""
        flat = numbers.flatten(0, len(self.lead))
        return flat.index_select(0, rows).view(*self._shape, *flat.shape[1:])

    @property
    def _epoch(self) -> int:
        return self._done // self.config.num_minibatches

    def _mean(self, numbers: Tensor, counted: Tensor | None, *, last_epoch: bool = False) -> Tensor:
        """Average over minibatches and their steps, (minibatches, *lead, minibatch_size) to (*lead,).

        Args:
            numbers: One number for each step of all minibatches so far.
            counted: Number of minibatches to average over, for each stacked policy, (R,). None: all.
            last_epoch: Whether to average over the last epoch only.
        """
        done: int | Tensor = self._done if counted is None else counted
        first = (done - 1) // self._shape[0] * self._shape[0] if last_epoch else 0
        if counted is None:
            return numbers[first:].mean((0, -1))
        index = torch.arange(len(numbers), device=numbers.device).unsqueeze(-1)
        kept = (index < done) & (index >= first)
        # Not a multiplication by 0, which a NaN would survive.
        return torch.where(kept, numbers.mean(-1), 0.0).sum(0) / kept.sum(0)


class ActorUpdate(Half):
    """Clipped policy gradient steps on one rollout.

    Args:
        network: Actors, updated in place.
        log_std: Log standard deviations, updated in place, (*lead, action_size). None: discrete actions.
        optimizer: Optimizer created by `actor_optimizer`, or a stack of them.
        config: Clipping, entropy and sizes of each policy.
        hooks: Mitigations of the actor.
    """

    def __init__(
        self,
        network: Gradients,
        log_std: Tensor | None,
        optimizer: SingleOptimizer | StackedOptimizer,
        config: PPOConfig,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(network, optimizer, config, hooks)
        self.distribution = distribution_of(log_std)
        """Distribution of the actions."""
        self.parameters = [*network.parameters, *([] if log_std is None else [log_std])]
        self._log_ratios, self._advantages = self._zeros(), self._zeros()

    def begin(self, batch: Batch) -> None:
        """Start the update on a new rollout."""
        self._batch = batch
        self._begin_hooks(batch.observations)
        self._rollout_advantages = batch.advantages
        if self.config.normalize_advantages == "rollout":
            self._rollout_advantages = normalized(batch.advantages)
        self._done = 0

    def begin_epoch(self, rows: Tensor) -> None:
        """Permute the rollout, so that each minibatch is a slice. `rows` as from `minibatch_rows`."""
        batch = self._batch
        self._observations = self._split(batch.observations, rows).unbind()
        self._actions = self._split(batch.actions, rows).unbind()
        self._old = self._split(batch.log_probabilities, rows).unbind()
        advantages = self._advantages[self._epoch]
        advantages.copy_(self._split(self._rollout_advantages, rows))
        if self.config.normalize_advantages == "minibatch":
            advantages.copy_(normalized(advantages))
        self._signs = advantages.sign()
        self._limits = self._signs + self.config.clip_range

    @torch.no_grad()
    def compute_gradients(self, index: int) -> None:
        """Set `.grad` for a minibatch of the epoch.

        The loss is -mean(min(A r, A clip(r))) - entropy_coefficient * mean(entropy), with r the ratio
        of new to old probability. Its derivative with respect to log r is w = -A r / size where the clipping
        is inactive, that is, where r - 1 is within the range or its sign is opposite to the advantage's, and
        0 elsewhere.
        """
        epoch, config = self._epoch, self.config
        log_ratios = self._log_ratios[epoch, index]
        outputs = self._forward(self._observations[index])
        self.distribution.log_ratios(outputs, self._actions[index], self._old[index], log_ratios)
        ratios = log_ratios.exp()
        # (r - 1) sign(A) <= range, with the precomputed terms on the right-hand side
        unclipped = ratios * self._signs[index] <= self._limits[index]
        weights = ratios.mul_(self._advantages[epoch, index]).mul_(unclipped)
        weights.mul_(-1 / config.minibatch_size)
        self._backward(self.distribution.gradient(weights, config.entropy_coefficient))
        self._done += 1

    def approximate_kl(self) -> Tensor:
        """Return the KL from old to new policy on the latest minibatch, the mean of k3. Shape: (*lead,)."""
        return k3(self._log_ratios.flatten(0, 1)[self._done - 1]).mean(-1)

    def statistics(self, counted: Tensor | None = None) -> dict[str, Tensor]:
        """Return policy_loss and clip_fraction, averaged over all minibatches so far, and approximate_kl.

        The last is averaged over the last epoch only. Shape of each: (*lead,).

        Args:
            counted: Number of minibatches of each stacked policy, if some stopped early. Shape: (R,).
        """
        log_ratios = self._log_ratios.flatten(0, 1)[: self._done]
        advantages = self._advantages.flatten(0, 1)[: self._done]
        ratios, clip_range = log_ratios.exp(), self.config.clip_range
        clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
        gains = torch.minimum(advantages * ratios, advantages * clipped)
        outside = ((ratios - 1).abs() > clip_range).to(ratios.dtype)
        return {
            "policy_loss": -self._mean(gains, counted),
            "clip_fraction": self._mean(outside, counted),
            "approximate_kl": self._mean(k3(log_ratios), counted, last_epoch=True),
        }


class CriticUpdate(Half):
    """Squared-error steps of the critic on one rollout.

    Args:
        network: Critics, updated in place.
        optimizer: Optimizer created by `critic_optimizer`, or a stack of them.
        config: Clipping and sizes of each policy.
        hooks: Mitigations of the critic.
    """

    def __init__(
        self,
        network: Gradients,
        optimizer: SingleOptimizer | StackedOptimizer,
        config: PPOConfig,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(network, optimizer, config, hooks)
        self._errors = self._zeros()

    def begin(self, observations: Tensor, values: Tensor, returns: Tensor) -> None:
        """Start the update on a new rollout, with the tensors of a `Batch`."""
        self._batch = observations, values, returns
        self._begin_hooks(observations)
        self._done = 0

    def begin_epoch(self, rows: Tensor) -> None:
        """Permute the rollout, so that each minibatch is a slice. `rows` as from `minibatch_rows`."""
        self._observations, self._values, self._returns = (
            self._split(each, rows).unbind() for each in self._batch
        )

    @torch.no_grad()
    def compute_gradients(self, index: int) -> None:
        """Set `.grad` for a minibatch of the epoch.

        The loss is value_coefficient * mean((V - R)^2), and its derivative with respect to V is
        2 * value_coefficient * (V - R) / size. With value clipping, V is the old value plus the clipped
        change, and the derivative is 0 where the clipping is active.
        """
        values = self._forward(self._observations[index]).squeeze(-1)
        clip_range = self.config.value_clip_range
        errors = self._errors[self._epoch, index]
        scale = 2 * self.config.value_coefficient / self.config.minibatch_size
        if clip_range is None:
            torch.sub(values, self._returns[index], out=errors)
            gradient = errors * scale
        else:
            change = values - self._values[index]
            clipped = change.clamp(-clip_range, clip_range)
            torch.sub(self._values[index] + clipped, self._returns[index], out=errors)
            gradient = (errors * scale).mul_(change.abs() <= clip_range)
        self._backward(gradient.unsqueeze(-1))
        self._done += 1

    def statistics(self, counted: Tensor | None = None) -> dict[str, Tensor]:
        """Return value_loss, the mean squared error over the minibatches so far, as in `ActorUpdate`."""
        errors = self._errors.flatten(0, 1)[: self._done]
        return {"value_loss": self._mean(errors.square(), counted)}


def minibatch_rows(data_orders: Tensor, minibatch_size: int) -> Tensor:
    """Convert data orders to rows of a `Batch` whose leading dimensions are flattened, epoch by epoch.

    Args:
        data_orders: One permutation of a policy's steps per epoch. Shape: (*lead, epochs, N), int64.
        minibatch_size: Steps of each policy in a minibatch.

    Returns:
        Rows, by minibatch, policy and step. Shape: (epochs, N * product of lead).
    """
    epochs, steps = data_orders.shape[-2:]
    flat = data_orders.reshape(-1, epochs, steps)
    first = torch.arange(len(flat), device=flat.device).view(-1, 1, 1) * steps
    minibatches = (flat + first).view(len(flat), epochs, -1, minibatch_size)
    return minibatches.permute(1, 2, 0, 3).reshape(epochs, -1)


@flushed_denormals()
def run_half(half: ActorUpdate | CriticUpdate, data_orders: Tensor) -> None:
    """Run all epochs of one half, after its `begin`.

    Args:
        half: The half.
        data_orders: One permutation of each policy's steps per epoch. Shape: (*lead, epochs, N), int64.
    """
    for rows in minibatch_rows(data_orders, half.config.minibatch_size):
        half.begin_epoch(rows)
        for index in range(half.config.num_minibatches):
            half.compute_gradients(index)
            half.take_step()


@flushed_denormals()
def run_coupled(actor: ActorUpdate, critic: CriticUpdate, data_orders: Tensor) -> Tensor | None:
    """Run all epochs of both halves, minibatch by minibatch, after their `begin`.

    The gradient norm is clipped over both networks. Both stop at the first minibatch above the target KL,
    without taking its step: one policy ends there, which the host decides; of stacked ones, each keeps its
    weights from there on, without a wait for the device.

    Args:
        actor: Actor's half.
        critic: Critic's half.
        data_orders: As in `run_half`.

    Returns:
        Number of minibatches of each stacked policy, (R,), if some may have stopped; else None.
    """
    config, active, counted = actor.config, None, None
    parameters = [*actor.parameters, *critic.parameters]
    limit = math.inf if config.target_kl is None else 1.5 * config.target_kl
    if config.target_kl is not None and actor.lead:
        active = data_orders.new_ones(actor.lead, dtype=torch.bool)
        counted = data_orders.new_zeros(actor.lead)
    for rows in minibatch_rows(data_orders, config.minibatch_size):
        actor.begin_epoch(rows)
        critic.begin_epoch(rows)
        for index in range(config.num_minibatches):
            actor.compute_gradients(index)
            critic.compute_gradients(index)
            if active is not None and counted is not None:
                counted += active
                active &= ~(actor.approximate_kl() > limit)
            elif config.target_kl is not None and actor.approximate_kl() > limit:
                return None
            if config.max_gradient_norm is not None:
                _clip(parameters, config.max_gradient_norm, stacked=bool(actor.lead))
            actor.take_step(active)
            critic.take_step(active)
    return counted


def _clip(parameters: Sequence[Tensor], max_norm: float, *, stacked: bool) -> None:
    if stacked:
        clip_stacked_gradients_([p.grad for p in parameters if p.grad is not None], max_norm)
    else:
        nn.utils.clip_grad_norm_(parameters, max_norm)


def update_both(
    actor: ActorUpdate, critic: CriticUpdate, batch: Batch, data_orders: Tensor
) -> dict[str, Tensor]:
    """Run a whole update of both halves and return the statistics of both; `data_orders` as in `run_half`."""
    actor.begin(batch)
    critic.begin(batch.observations, batch.values, batch.returns)
    counted = None
    if actor.config.max_gradient_norm is None and actor.config.target_kl is None:
        run_half(actor, data_orders)
        run_half(critic, data_orders)
    else:
        counted = run_coupled(actor, critic, data_orders)
    return critic.statistics(counted) | actor.statistics(counted)


def normalized(advantages: Tensor) -> Tensor:
    """Normalize to mean 0 and standard deviation 1 over the last dimension."""
    deviation, mean = torch.std_mean(advantages, dim=-1, keepdim=True)
    return (advantages - mean) / (deviation + 1e-8)


def k3(log_ratios: Tensor) -> Tensor:
    """Return r - 1 - log r, whose mean estimates the KL from old to new policy (Schulman's k3)."""
    return log_ratios.exp() - 1 - log_ratios
