"""Distributions of actions, and the gradients of their log-probabilities, written out.

Everything has leading dimensions `*lead`: none for one policy, (R,) for R stacked ones.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """Distribution of actions given the outputs of an actor."""

    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return log-probabilities of actions.

        Shapes: (*lead, batch, action_size), and (*lead, batch, action_size) or (*lead, batch) to
        (*lead, batch).
        """

    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy in nats. Shape: (*lead, batch, action_size) to (*lead,)."""

    def log_ratios(self, outputs: Tensor, actions: Tensor, old: Tensor, out: Tensor) -> Tensor:
        """Write the log-probabilities of a minibatch's actions, minus the old ones, to `out`.

        Shapes: as in `log_probabilities`; `old` and `out` (*lead, size).
        """

    def gradient(self, weights: Tensor, entropy_coefficient: float) -> Tensor:
        """Return the gradient of a loss with respect to the outputs, for the minibatch of `log_ratios`.

        The loss is the sum of log-probabilities with these weights, minus the mean entropy with its
        coefficient. Called once, and overwrites what `log_ratios` has kept.

        Args:
            weights: Weight of each log-probability. Shape: (*lead, size).
            entropy_coefficient: Weight of the mean entropy.

        Returns:
            Shape: (*lead, size, action_size).
        """


class Gaussian:
    """Gaussian with diagonal covariance, whose means are the outputs.

    Args:
        log_std: Log standard deviations; `gradient` sets their `.grad`. Shape: (*lead, action_size).
    """

    def __init__(self, log_std: Tensor) -> None:
        self._log_std = log_std
        self._log_std_rows = log_std.detach().unsqueeze(-2)  # the same memory
        self._ones = torch.ones_like(log_std.detach())
        self._half_log_tau = 0.5 * log_std.shape[-1] * math.log(2 * math.pi)

    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-densities of actions; see `Distribution`."""
        deviations = (actions - outputs) * torch.exp(-self._log_std_rows)
        summed = self._log_std.sum(-1, keepdim=True)
        return -0.5 * deviations.square().sum(-1) - summed - self._half_log_tau

    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the entropy, which does not depend on the outputs; see `Distribution`."""
        return self._log_std.sum(-1) + 0.5 * self._log_std.shape[-1] + self._half_log_tau

    def log_ratios(self, outputs: Tensor, actions: Tensor, old: Tensor, out: Tensor) -> Tensor:
        """Write the log-ratios of a minibatch; see `Distribution`."""
        self._inverse_std = torch.exp(-self._log_std_rows)
        self._deviations = (actions - outputs).mul_(self._inverse_std)
        self._squares = self._deviations.square()
        rest = old + (self._log_std.sum(-1, keepdim=True) + self._half_log_tau)
        if out.dim() == 1:  # one kernel; a product with ones rounds otherwise than a sum
            return torch.addmv(rest, self._squares, self._ones, alpha=-0.5, beta=-1, out=out)
        return torch.sub(self._squares.sum(-1).mul_(-0.5), rest, out=out)

    def gradient(self, weights: Tensor, entropy_coefficient: float) -> Tensor:
        """Return the gradient with respect to the means and set that of `log_std`; see `Distribution`.

        With z = (a - mean) / std, d log p / d mean = z / std and d log p / d log_std = z^2 - 1.
        """
        squares = self._squares.sub_(1)
        if weights.dim() == 1:
            summed = torch.mv(squares.t(), weights)
        else:
            summed = torch.bmm(weights.unsqueeze(1), squares).squeeze(1)
        self._log_std.grad = summed - entropy_coefficient  # d entropy / d log_std = 1
        return self._deviations.mul_(weights.unsqueeze(-1)).mul_(self._inverse_std)


class Categorical:
    """Distribution over integers, whose logits are the outputs."""

    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions; see `Distribution`."""
        return _chosen(torch.log_softmax(outputs, -1), actions.unsqueeze(-1))

    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy over the batch; see `Distribution`."""
        log_probabilities = torch.log_softmax(outputs, -1)
        return -(log_probabilities.exp() * log_probabilities).sum(-1).mean(-1)

    def log_ratios(self, outputs: Tensor, actions: Tensor, old: Tensor, out: Tensor) -> Tensor:
        """Write the log-ratios of a minibatch; see `Distribution`."""
        self._actions = actions.unsqueeze(-1)
        self._log_probabilities = torch.log_softmax(outputs, -1)
        return torch.sub(_chosen(self._log_probabilities, self._actions), old, out=out)

    def gradient(self, weights: Tensor, entropy_coefficient: float) -> Tensor:
        """Return the gradient with respect to the logits; see `Distribution`.

        With p = softmax(logits), d log p_a / d logits = onehot(a) - p.
        """
        size, weights = weights.shape[-1], weights.unsqueeze(-1)
        log_probabilities, probabilities = self._log_probabilities, self._log_probabilities.exp()
        gradient = (-weights * probabilities).scatter_add_(-1, self._actions, weights)
        if entropy_coefficient:  # d entropy / d logits = -p (log p + entropy)
            entropy = -(probabilities * log_probabilities).sum(-1, keepdim=True)
            scale = entropy_coefficient / size
            gradient.add_(probabilities * (log_probabilities + entropy), alpha=scale)
        return gradient


def _chosen(log_probabilities: Tensor, actions: Tensor) -> Tensor:
    return log_probabilities.gather(-1, actions).squeeze(-1)


def distribution_of(log_std: Tensor | None) -> Distribution:
    """Return the distribution of a policy's actions: Gaussian, or categorical without a `log_std`."""
    return Categorical() if log_std is None else Gaussian(log_std)
