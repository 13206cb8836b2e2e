"""Metrics of the policies of PPO, alone or stacked, on the observations of their latest rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.agents.ppo.agent import PPO, StackedPPO
from plasticity.metrics.stacked import stacked_features, stacked_metrics
from plasticity.metrics.tracker import Tracker


class PolicyMetrics(Protocol):
    """Metrics of runs, each of which is measured from boundary to boundary."""

    def take(self, observations: Tensor, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        """Measure the policies of some runs.

        Args:
            observations: Observations of all runs. Shape: (*lead, batch, observation_size).
            runs: Indices of the runs.

        Returns:
            Metrics by run; the first ones of a run are without those of the update since its latest boundary.
        """

    def state_dict(self, run: int) -> dict[str, Any] | None:
        """Return the state of a run's `Tracker`, which a stacked run would have if it were alone."""

    def load_state_dict(self, state: dict[str, Any] | None, run: int) -> None:
        """Continue from a `state_dict`."""


def policy_metrics(agent: PPO | StackedPPO, metrics: Sequence[str]) -> PolicyMetrics:
    """Return what measures these metrics of an agent."""
    if not metrics:
        return _Nothing()
    if isinstance(agent, PPO):
        return _Single(agent, metrics)
    return _Stacked(agent, metrics)


class _Nothing:
    def take(self, observations: Tensor, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        return {}

    def state_dict(self, run: int) -> None:
        return None

    def load_state_dict(self, state: dict[str, Any] | None, run: int) -> None:
        pass


class _Single:
    def __init__(self, agent: PPO, metrics: Sequence[str]) -> None:
        policy = agent.policy
        # the probe is replaced each time
        self._tracker = Tracker(policy, agent.observations[:2], metrics, policy.hidden_layers)

    def take(self, observations: Tensor, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        return {run: self._tracker.take(observations)[0] for run in runs}

    def state_dict(self, run: int) -> dict[str, Any]:
        return self._tracker.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, run: int) -> None:
        assert state is not None
        self._tracker.load_state_dict(state)


class _Stacked:
    def __init__(self, agent: StackedPPO, metrics: Sequence[str]) -> None:
        self._networks, self._metrics = agent.networks, metrics
        self._layers = agent.policies.hidden_layers
        # Stacked parameters at each run's latest boundary, and the runs that have had one.
        self._previous: dict[str, Tensor] = {}
        self._has_previous: set[int] = set()

    def take(self, observations: Tensor, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        if not runs:
            return {}
        features = stacked_features(self._networks, observations, self._layers)
        found: dict[int, dict[str, float]] = {}
        for previous, indices in (
            (self._previous, [run for run in runs if run in self._has_previous]),
            (None, [run for run in runs if run not in self._has_previous]),
        ):
            measured = stacked_metrics(
                self._networks, features, self._metrics, indices=indices, previous=previous
            )
            found.update(zip(indices, measured, strict=True))
        if "update_norm" in self._metrics:
            for run in runs:
                self._keep(run, {name: p[run] for name, p in self._networks.parameters.items()})
        return found

    def _keep(self, run: int, parameters: Mapping[str, Tensor]) -> None:
        if not self._previous:
            stacked = self._networks.parameters
            self._previous = {name: torch.zeros_like(p) for name, p in stacked.items()}
        for name, parameter in parameters.items():
            self._previous[name][run].copy_(parameter.detach())
        self._has_previous.add(run)

    def state_dict(self, run: int) -> dict[str, Any]:
        if run not in self._has_previous:
            return {"previous": None}
        return {"previous": {name: p[run].clone() for name, p in self._previous.items()}}

    def load_state_dict(self, state: dict[str, Any] | None, run: int) -> None:
        assert state is not None
        if state["previous"] is not None:
            self._keep(run, state["previous"])
