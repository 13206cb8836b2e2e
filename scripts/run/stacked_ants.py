"""Stacked Slippery-Ant runs: their ants share one simulator, on the device of their policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.ppo.device_environments import DeviceEnvironments
from plasticity.agents.ppo.rollout import environment_seeds
from plasticity.agents.ppo.stacked_agent import StackedPPO
from plasticity.metrics.stacked import stacked_features, stacked_metrics
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.ant_experiment import with_tensors
from plasticity.scripts.run.ant_rows import AntRows, ant_regularizers, has_all_rows
from plasticity.scripts.run.atomic_files import RunError
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.warp import SlipperyAntWarp


class StackedAnts:
    """Runs of Slippery-Ant with one `StackedPPO`. `AntRows` decides when a row of each is due.

    Args:
        configs: Configurations of the runs; equal except for their methods and seeds.
        make_environments: Returns the ants of all runs, run after run. None: `warp_ants`.

    Raises:
        ImportError: if the physics engine is not installed.
    """

    def __init__(
        self,
        configs: Sequence[ControlRunConfig],
        make_environments: Callable[[Sequence[ControlRunConfig]], DeviceEnvironments] | None = None,
    ) -> None:
        config = configs[0]
        self._configs = configs
        make = warp_ants if make_environments is None else make_environments
        self._envs = make(configs)
        regularizers = [ant_regularizers(each) for each in configs]
        self._agent = StackedPPO(
            self._envs,
            config.agent,
            [actor for actor, _ in regularizers],
            [critic for _, critic in regularizers],
            seeds=[each.seed for each in configs],
            device=config.device,
        )
        self._rows = [AntRows(each) for each in configs]
        self._hidden_layers = self._agent.policy(0).hidden_layers
        # Stacked parameters at each run's latest row, and the runs that have had one.
        self._previous: dict[str, Tensor] = {}
        self._has_previous: set[int] = set()
        # states of the environments by index, until all are there: they are loaded as one
        self._loaded: dict[int, dict[str, Any]] = {}

    @property
    def progress(self) -> float:
        """Steps made so far by each run, summed over its environments."""
        live = [index for index in range(len(self._rows)) if not self.has_diverged(index)]
        return float(self._agent.num_steps[live[0] if live else 0])

    def is_finished(self, index: int) -> bool:
        """Return whether a run is complete."""
        return self._rows[index].finished

    def has_diverged(self, index: int) -> bool:
        """Return whether a run ended because a loss became NaN or infinite."""
        return self._rows[index].diverged

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Collect rollouts and learn until the next row of any run is due.

        Args:
            should_stop: Called before every rollout.

        Returns:
            Rows by index; none if stopped before one was due.

        Raises:
            RunError: if the simulator ran out of space, so that its numbers must not be used.
        """
        self._load_environments()
        while not should_stop():
            iterations = self._agent.iterate()
            rows: dict[int, dict[str, Any]] = {}
            for index, iteration in enumerate(iterations):
                own = self._rows[index]
                if own.diverged:
                    continue
                row = own.take(iteration, self._agent.num_steps[index])
                if row is not None:
                    rows[index] = row
            if rows:
                self._complete(rows)
                return rows
        return {}

    def _complete(self, rows: Mapping[int, dict[str, Any]]) -> None:
        """Add the metrics to these rows, measured on the stacked policies."""
        sound = [index for index in rows if not self.has_diverged(index)]
        metrics, policies = self._configs[0].tracking.metrics, self._agent.policies
        if not metrics or not sound:
            return
        observed = [self._agent.observations(index) for index in range(len(self._rows))]
        features = stacked_features(policies, torch.stack(observed), self._hidden_layers)
        # A run's first row has no update to measure.
        for indices in (
            [index for index in sound if index in self._has_previous],
            [index for index in sound if index not in self._has_previous],
        ):
            previous = self._previous if indices and indices[0] in self._has_previous else None
            measured = stacked_metrics(
                policies, features, metrics, indices=indices, previous=previous
            )
            for index, numbers in zip(indices, measured, strict=True):
                rows[index].update(numbers)
        if "update_norm" in metrics:
            for index in sound:
                current = {name: p[index] for name, p in policies.parameters.items()}
                self._keep_previous(index, current)

    def _keep_previous(self, index: int, parameters: Mapping[str, Tensor]) -> None:
        if not self._previous:
            stacked = self._agent.policies.parameters
            self._previous = {name: torch.zeros_like(p) for name, p in stacked.items()}
        for name, parameter in parameters.items():
            self._previous[name][index].copy_(parameter.detach())
        self._has_previous.add(index)

    def _tracker_state(self, index: int) -> dict[str, Any] | None:
        """Return the state that the `Tracker` of this run would save if it were alone."""
        if not self._configs[0].tracking.metrics:
            return None
        if index not in self._has_previous:
            return {"previous": None}
        return {"previous": {name: p[index].clone() for name, p in self._previous.items()}}

    def take_episodes(self, index: int) -> list[dict[str, Any]]:
        """Return the episodes of a run that ended since the last call, in the order of their ends."""
        return self._rows[index].take_episodes()

    def state_dicts(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return everything that the rest of these runs depends on, except their configurations."""
        self._load_environments()
        environments = with_tensors(self._envs.state_dict())
        return [
            {
                "agent": self._agent.state_dict(index),
                "environments": _part(environments, self._own(index)),
                "tracker": self._tracker_state(index),
                **self._rows[index].state_dict(),
            }
            for index in indices
        ]

    def _own(self, index: int) -> slice:
        each = self._configs[index].stream.num_envs
        return slice(index * each, (index + 1) * each)

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Continue a run from a saved state; all runs must have the same progress."""
        self._agent.load_state_dict(index, state["agent"])
        if state["agent"]["started"]:
            self._loaded[index] = state["environments"]
        if state["tracker"] is not None and state["tracker"]["previous"] is not None:
            self._keep_previous(index, state["tracker"]["previous"])
        self._rows[index].load_state_dict(state)

    def _load_environments(self) -> None:
        if not self._loaded:
            return
        states = [self._loaded[index] for index in range(len(self._configs))]
        self._envs.load_state_dict(_joined(states))
        self._loaded.clear()

    def rehearse(self) -> None:
        """Collect one rollout, learn from it, and measure."""
        self._agent.iterate()
        self._complete({index: {} for index in range(len(self._rows))})

    def close(self) -> None:
        """Close the simulator."""
        self._envs.close()

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the steps of a run with this saved state."""
        return float(state["agent"]["num_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: ControlRunConfig) -> bool:
        """Return whether a run with this saved state has all its rows."""
        return has_all_rows(state, config)


class _WarpAnts(SlipperyAntWarp):
    """Ants whose errors are a `RunError`."""

    def check(self) -> None:
        try:
            super().check()
        except RuntimeError as error:
            raise RunError(f"{error} The latest checkpoint is intact.") from error


def warp_ants(configs: Sequence[ControlRunConfig]) -> DeviceEnvironments:
    """Return the ants of some runs in one simulator; each run's draw the same numbers as if it were alone.

    Raises:
        torch.cuda.OutOfMemoryError: if they do not fit into the memory, for Warp as well as for torch.
    """
    config = configs[0]
    streams = [child_seed(each.seed, "stream") for each in configs]
    try:
        return _WarpAnts(
            len(configs) * config.stream.num_envs,
            reset_seeds=[
                seed
                for each in configs
                for seed in environment_seeds(each.seed, config.stream.num_envs)
            ],
            task_seeds=[seed for seed in streams for _ in range(config.stream.num_envs)],
            change_every=config.stream.change_every // config.stream.num_envs,
            device=config.device,
        )
    except RuntimeError as error:
        if "Failed to allocate" in str(error):  # Warp has no class of errors for it
            raise torch.cuda.OutOfMemoryError(str(error)) from error
        raise


def _part(state: Mapping[str, Any], own: slice) -> dict[str, Any]:
    """Return the state of some of the environments, from that of all."""
    return {
        name: value[own].clone() if isinstance(value, Tensor) else value[own]
        for name, value in state.items()
    }


def _joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state of all environments, from those of their parts."""
    joined: dict[str, Any] = {}
    for name in states[0]:
        values = [each[name] for each in states]
        if isinstance(values[0], Tensor):
            joined[name] = torch.cat(values)
        else:
            joined[name] = [entry for value in values for entry in value]
    return joined
