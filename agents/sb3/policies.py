"""Networks of a model of Stable-Baselines3, as the metrics of a run see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from plasticity.agents.execution.single import SingleNetwork
from plasticity.sb3.gradients import StepGradients
from plasticity.sb3.mitigations import MitigationCallback
from plasticity.sb3.networks import policy_networks

__all__ = ["SB3Policies"]

PROBE_STEPS = 2048
"""Latest steps in the replay buffer that an off-policy algorithm is measured on: as many as a rollout has."""


class SB3Policies:
    """Actor and critic of one model, without its target networks.

    Layer names are those of `plasticity.sb3.networks.PolicyNetworks`.

    Args:
        model: The model.
        callback: Mitigations that act on its networks; None: none do.
    """

    lead: tuple[int, ...] = ()
    """Leading dimensions of all tensors: none."""

    def __init__(self, model: BaseAlgorithm, callback: MitigationCallback | None) -> None:
        self._model, self._callback = model, callback
        self._module = policy_networks(model.policy)
        self.networks = SingleNetwork(self._module)
        """Actor and critic as one network."""
        shape = model.observation_space.shape
        assert shape is not None
        example = self._module.observations_to_tensor(np.zeros((2, *shape), np.float32))
        self.hidden_layers = self._module.hidden_layers(self._module.inputs(example))
        """Names of the layers that are measured."""
        self.gradients = StepGradients()
        """Gradients of each optimizer's latest step."""
        self.gradients.attach(model.policy)

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Trained parameters by name."""
        return self.networks.parameters

    def observations(self) -> Any:
        """Return the inputs that the networks are measured on: those of the latest steps.

        Returns:
            The observations of the latest rollout, (rollout_steps, observation_size), or of the latest
            steps in the replay buffer, at most `PROBE_STEPS`; a tuple with the actions taken, scaled to ±1,
            (batch, action_size), if the critic sees actions.
        """
        model: Any = self._model
        if isinstance(model, OnPolicyAlgorithm):
            seen = model.rollout_buffer.observations  # flat after an update
            return self._tensor(seen.reshape(-1, seen.shape[-1]))
        buffer = model.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        count = min(filled, -(-PROBE_STEPS // buffer.n_envs))
        latest = np.arange(buffer.pos - count, buffer.pos) % buffer.buffer_size
        observations = self._tensor(_flat(buffer.observations[latest]))
        if not hasattr(model.policy, "critic"):
            return observations
        return observations, self._tensor(_flat(buffer.actions[latest]))

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, device=self._model.device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Give the networks the parameters, and the gradients, that they are measured with, in the block."""
        with self.gradients.in_place(self._module):
            if self._callback is None:
                yield
            else:
                with self._callback.evaluating():
                    yield

    def take_counts(self, indices: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Return what the mitigations counted since the last call, such as "reset_units/actor.latent_pi.0".

        Args:
            indices: Indices of the policies, of which there is one.
        """
        found = {} if self._callback is None else self._callback.take_counts()
        return [{_joined(name): number for name, number in found.items()}]


def _joined(name: str) -> str:
    """Return the name of a count with the layer's as the metrics have it: "what/actor.mu.0"."""
    what, *layer = name.split("/")
    return "/".join(filter(None, (what, ".".join(layer))))


def _flat(array: Any) -> Any:
    """Line up the environments of all steps. Shape: (steps, num_envs, size) to (steps * num_envs, size)."""
    return array.reshape(-1, array.shape[-1])
