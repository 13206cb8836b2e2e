"""Metrics of the policies of agents, alone or stacked, on the observations of their latest steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from plasticity.agents.execution.measuring import measured
from plasticity.agents.execution.single import SingleNetwork, part_of
from plasticity.metrics.registry import METRICS
from plasticity.stacking.networks import StackedNetworks


class MeasuredPolicies(Protocol):
    """Policies of one agent or of stacked ones, as far as they are measured: a part of `Policies`."""

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading dimensions of all tensors: () for one agent, (R,) for R stacked ones."""

    @property
    def networks(self) -> SingleNetwork | StackedNetworks:
        """Actors and critics."""

    @property
    def hidden_layers(self) -> tuple[str, ...]:
        """Names of the layers that are measured."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by name. Shape of each: (*lead, *shape)."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Give the networks the parameters that they are measured with, inside the block."""

    def take_counts(self, indices: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Return what the mitigations counted on some policies since the last call for each of these."""


class PolicyMetrics:
    """Metrics of runs, each of which is measured from boundary to boundary.

    Args:
        policies: Policies of all runs.
        metrics: As in `Tracker`.
    """

    def __init__(self, policies: MeasuredPolicies, metrics: Sequence[str]) -> None:
        self._policies, self._metrics = policies, metrics
        # Parameters at each run's latest boundary, (*lead, *shape), and the runs that have had one.
        self._previous: dict[str, Tensor] = {}
        self._has_previous: set[int] = set()

    def take(self, observations: Any, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        """Measure the policies of some runs.

        Args:
            observations: Observations of all runs, (*lead, batch, observation_size), or a tuple of all
                inputs of a single network.
            runs: Indices of the runs.

        Returns:
            Metrics by run, of those whose features are finite; the first ones of a run are without those of
            the update since its latest boundary.
        """
        if not self._metrics:
            return {}
        policies = self._policies
        found: dict[int, dict[str, float]] = {}
        for previous, indices in (
            (self._previous, [run for run in runs if run in self._has_previous]),
            (None, [run for run in runs if run not in self._has_previous]),
        ):
            with policies.evaluating():
                found |= measured(
                    policies.networks,
                    observations,
                    self._metrics,
                    policies.hidden_layers,
                    indices=indices,
                    previous=previous,
                )
        if any(METRICS[name].kind == "update" for name in self._metrics):
            for run in runs:
                self._keep(run, self._of(policies.parameters, run))
        return found

    def _of(self, tensors: Mapping[str, Tensor], run: int) -> dict[str, Tensor]:
        lead = self._policies.lead
        return {name: part_of(tensor, lead, run).detach() for name, tensor in tensors.items()}

    def _keep(self, run: int, parameters: Mapping[str, Tensor]) -> None:
        if not self._previous:
            every = self._policies.parameters
            self._previous = {name: torch.zeros_like(p).detach() for name, p in every.items()}
        for name, kept in self._of(self._previous, run).items():
            kept.copy_(parameters[name])
        self._has_previous.add(run)

    def state_dict(self, run: int) -> dict[str, Any]:
        """Return a run's parameters at its latest boundary, whether it is stacked or alone."""
        if run not in self._has_previous:
            return {"previous": None}
        own = self._of(self._previous, run)
        return {"previous": {name: tensor.clone() for name, tensor in own.items()}}

    def load_state_dict(self, state: Mapping[str, Any], run: int) -> None:
        """Continue from a `state_dict`, saved on any device."""
        if state["previous"] is not None:
            self._keep(run, state["previous"])
