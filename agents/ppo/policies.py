"""Policies that PPO trains: one policy, or R stacked ones, behind one interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.agents.execution.compiled import GraphedFunction
from plasticity.agents.execution.single import SingleNetwork, constants_of
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.optimizers import Optimizer
from plasticity.agents.ppo.updates import ActorUpdate
from plasticity.mitigations.hooks import replaced_parameters
from plasticity.stacking.networks import StackedNetworks


class PolicyHooks(Protocol):
    """Interface of `Hooks` on which PPO relies, whichever process has them."""

    def boundary(self, task: int, runs: Sequence[int], /) -> None:
        """Let the mitigations act between two tasks."""

    def evaluation_parameters(self) -> dict[str, Tensor]:
        """Return the parameters to evaluate the networks with, by name."""

    def take_counts(self, runs: Sequence[int] | None, /) -> list[dict[str, float]]:
        """Return what the mitigations counted on some policies since the last call for each of these."""

    def freeze(self, run: int, /) -> None:
        """Keep a network as it is from now on."""

    def state_dict(self, run: int, /) -> dict[str, Any]:
        """Return one network's state."""

    def load_state_dict(self, state: Mapping[str, Any], run: int, /) -> None:
        """Load one network's state."""


class Policies(ABC):
    """Actors and critics with their optimizers, over leading dimensions `*lead`.

    `SinglePolicy` is one policy, where `lead` is (); `StackedPolicies` are R stacked ones, where it is (R,).
    """

    lead: tuple[int, ...]
    """Leading dimensions of all tensors."""

    log_std: Tensor | None
    """Log standard deviations of continuous actions, (*lead, action_size). None: actions are discrete."""

    networks: SingleNetwork | StackedNetworks
    """Actors and critics."""

    hidden_layers: tuple[str, ...]
    """Names of the layers measured by a tracker, as in `ActorCritic`."""

    _actor: ActorUpdate
    _optimizers: dict[str, Optimizer]
    _hooks: dict[str, PolicyHooks | None]
    _graphed: GraphedFunction | None = None

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by their names in an `ActorCritic`. Shape of each: (*lead, *shape)."""
        return self.networks.parameters

    # ---- acting -----------------------------------------------------------------------------------

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Return the outputs of the actors, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch, action_size).
        """

    @abstractmethod
    def values(self, observations: Tensor) -> Tensor:
        """Return the values of the critics, without gradients.

        Shape: (*lead, batch, observation_size) to (*lead, batch).
        """

    @torch.no_grad()
    def log_probabilities(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions under the actors' outputs, without gradients.

        Shapes: (*lead, batch, action_size), and (*lead, batch, action_size) or (*lead, batch) to
        (*lead, batch).
        """
        return self._actor.distribution.log_probabilities(outputs, actions)

    @torch.no_grad()
    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the mean entropy in nats, without gradients.

        Shape: (*lead, batch, action_size) to (*lead,).
        """
        return self._actor.distribution.entropy(outputs)

    # ---- learning ---------------------------------------------------------------------------------

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
        for optimizer in self._optimizers.values():
            optimizer.set_learning_rate(learning_rates)
        learn = self._learn if self._graphed is None else self._graphed
        statistics: dict[str, Tensor] = learn(data_orders, *vars(batch).values())
        return statistics

    @abstractmethod
    def _learn(self, data_orders: Tensor, *batch: Tensor) -> dict[str, Tensor]:
        """Run all epochs; `batch` as the fields of a `Batch`, so that the update can be captured."""

    def _capture(self) -> None:
        """Turn `_learn` into a CUDA graph.

        The published update is 320 optimizer steps on small networks, each of about fifty tiny kernels:
        launching them takes the host longer than the GPU needs to run them.
        """
        self._graphed = GraphedFunction(
            self._learn, device=self._actor.parameters[0].device, constants=self._constants
        )

    def _constants(self) -> tuple[Any, ...]:
        return tuple([constants_of(each) for each in self._optimizers.values()])

    # ---- mitigations ------------------------------------------------------------------------------

    def _active_hooks(self) -> dict[str, PolicyHooks]:
        """Return the mitigations that act on steps, of "actor" and "critic", where there are any."""
        return {part: each for part, each in self._hooks.items() if each is not None}

    def boundary(self, task: int, index: int) -> None:
        """Let the mitigations of a policy act between two tasks.

        Args:
            task: Index of the task that begins.
            index: Index of the policy.
        """
        for hooks in self._active_hooks().values():
            hooks.boundary(task, [index])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Give the networks the parameters that they are measured with, inside the block."""
        with ExitStack() as block:
            for part, hooks in self._active_hooks().items():
                others = {
                    f"{part}.{name}": each for name, each in hooks.evaluation_parameters().items()
                }
                block.enter_context(replaced_parameters(self.parameters, others))
            yield

    def take_counts(self, indices: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Return what the mitigations counted on some policies since the last call for each of these.

        Names are those of layers in an `ActorCritic`: "reset_units/actor.fc1"; "draws/actor" of "draws".

        Args:
            indices: Indices of the policies. None: all.
        """
        count = math.prod(self.lead) if indices is None else len(indices)
        found: list[dict[str, float]] = [{} for _ in range(count)]
        for part, hooks in self._active_hooks().items():
            for own, counts in zip(found, hooks.take_counts(indices), strict=True):
                for name, number in counts.items():
                    what, *layer = name.split("/", 1)
                    own[f"{what}/{'.'.join([part, *layer])}"] = number
        return found

    # ---- freezing, saving and loading -------------------------------------------------------------

    def freeze(self, index: int) -> None:
        """Keep a policy as it is from now on. A single one stays as it is when nobody updates it.

        Raises:
            IndexError: if there is no such policy.
        """
        for optimizer in self._optimizers.values():
            optimizer.freeze(index)
        for hooks in self._active_hooks().values():
            hooks.freeze(index)

    @abstractmethod
    def policy(self, index: int = 0) -> ActorCritic:
        """Return a policy as an ordinary module, with the gradients of its last minibatch in `.grad`.

        Raises:
            IndexError: if there is no such policy.
        """

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return a policy's "policy", "actor_optimizer" and "critic_optimizer", in one format for both forms.

        Those of its mitigations that act on steps are "actor_mitigations" and "critic_mitigations".

        Raises:
            IndexError: if there is no such policy.
        """
        optimizers = {name: each.state_dict(index) for name, each in self._optimizers.items()}
        mitigations = {
            f"{part}_mitigations": each.state_dict(index)
            for part, each in self._active_hooks().items()
        }
        return {"policy": self.networks.state_dict(index), **optimizers, **mitigations}

    def load_state_dict(self, state: Mapping[str, Any], index: int = 0) -> None:
        """Load a `state_dict` of either form, saved on any device, into a policy.

        Raises:
            IndexError: if there is no such policy.
        """
        self.networks.load_state_dict(index, state["policy"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(index, state[name])
        for part, hooks in self._active_hooks().items():
            hooks.load_state_dict(state[f"{part}_mitigations"], index)
        if self._graphed is not None:
            self._graphed.forget()  # loading may have replaced tensors of the optimizers

    def close(self) -> None:  # noqa: B027
        """End what runs outside of this process, if anything does."""
