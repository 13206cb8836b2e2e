"""Protocol of the policies that PPO trains: one policy, or R stacked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch


class Policies(Protocol):
    """Actors and critics with their optimizers, over leading dimensions `*lead`.

    `SinglePolicy` is one policy, where `lead` is (); `StackedPolicies` are R stacked ones, where it is (R,).
    """

    lead: tuple[int, ...]
    """Leading dimensions of all tensors."""

    log_std: Tensor | None
    """Log standard deviations of continuous actions, (*lead, action_size). None: actions are discrete."""

    parameters: Mapping[str, Tensor]
    """Parameters by their names in an `ActorCritic`. Shape of each: (*lead, *shape)."""

    hidden_layers: tuple[str, ...]
    """Names of the layers measured by a tracker, as in `ActorCritic`."""

    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actors, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch, action_size).
        """

    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critics, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch).
        """

    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions under the actors' outputs, without gradients.

        Shapes: (*lead, batch, action_size), and (*lead, batch, action_size) or (*lead, batch) to
        (*lead, batch).
        """

    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy in nats, without gradients.

        Shape: (*lead, batch, action_size) to (*lead,).
        """

    def update(
        self, batch: Batch, data_orders: Tensor, learning_rates: Sequence[float]
    ) -> dict[str, Tensor]:
        """Learn from a rollout.

        Args:
            batch: The rollout.
            data_orders: One permutation of each policy's steps per epoch. Shape: (*lead, epochs, N), int64.
            learning_rates: Learning rate of each policy's optimizers.

        Returns:
            value_loss, policy_loss, clip_fraction (0 to 1) and approximate_kl (nats, over the last epoch),
            (*lead,). The next update may overwrite them.
        """

    def freeze(self, index: int) -> None:
        """Keep a policy as it is from now on.

        Raises:
            IndexError: if there is no such policy.
        """

    def policy(self, index: int = 0) -> ActorCritic:
        """Return a policy as an ordinary module, with the gradients of its last minibatch in `.grad`.

        Raises:
            IndexError: if there is no such policy.
        """

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return a policy's "policy", "actor_optimizer" and "critic_optimizer", in one format for both forms.

        Raises:
            IndexError: if there is no such policy.
        """

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load a `state_dict` of either form, saved on any device, into a policy.

        Raises:
            IndexError: if there is no such policy.
        """

    def close(self) -> None:
        """End what runs outside of this process."""
