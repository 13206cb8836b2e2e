"""Slippery-Ant runs that train at once: their ants share one simulator, on the device of their policies."""

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
    """Runs of Slippery-Ant with one `StackedPPO`. `AntRows` says when each has a row.

    Args:
        configs: Of the runs; equal but for method, seed and decay.
        make_environments: Gives the ants of all runs, those of one after those of another.

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
        # Parameters at each run's latest row, stacked; of which runs there is one.
        self._previous: dict[str, Tensor] = {}
        self._has_previous: set[int] = set()
        # of the environments, by place, until all are there: they are loaded as one
        self._loaded: dict[int, dict[str, Any]] = {}

    @property
    def progress(self) -> float:
        """Steps of each run, of all its environments together."""
        live = [place for place in range(len(self._rows)) if not self.has_diverged(place)]
        return float(self._agent.num_steps[live[0] if live else 0])

    def is_finished(self, place: int) -> bool:
        """Whether there is nothing left to do for a run."""
        return self._rows[place].finished

    def has_diverged(self, place: int) -> bool:
        """Whether a run ended because a loss became NaN or infinite."""
        return self._rows[place].diverged

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Play and learn until the next row of any run.

        Args:
            should_stop: Asked before every rollout.

        Returns:
            Rows by place; none of them if stopped before.

        Raises:
            RunError: if the simulator ran out of room, so that its numbers are not to be used.
        """
        self._load_environments()
        while not should_stop():
            iterations = self._agent.iterate()
            rows: dict[int, dict[str, Any]] = {}
            for place, iteration in enumerate(iterations):
                own = self._rows[place]
                if own.diverged:
                    continue
                row = own.take(iteration, self._agent.num_steps[place])
                if row is not None:
                    rows[place] = row
            if rows:
                self._complete(rows)
                return rows
        return {}

    def _complete(self, rows: Mapping[int, dict[str, Any]]) -> None:
        """Add what is measured of the policies that have a row now, all of them at once."""
        sound = [place for place in rows if not self.has_diverged(place)]
        metrics, policies = self._configs[0].tracking.metrics, self._agent.policies
        if not metrics or not sound:
            return
        observed = [self._agent.observations(place) for place in range(len(self._rows))]
        features = stacked_features(policies, torch.stack(observed), self._hidden_layers)
        # A run's first row has no update to measure.
        for places in (
            [place for place in sound if place in self._has_previous],
            [place for place in sound if place not in self._has_previous],
        ):
            previous = self._previous if places and places[0] in self._has_previous else None
            measured = stacked_metrics(
                policies, features, metrics, indices=places, previous=previous
            )
            for place, numbers in zip(places, measured, strict=True):
                rows[place].update(numbers)
        if "update_norm" in metrics:
            for place in sound:
                current = {name: p[place] for name, p in policies.parameters.items()}
                self._keep_previous(place, current)

    def _keep_previous(self, place: int, parameters: Mapping[str, Tensor]) -> None:
        if not self._previous:
            stacked = self._agent.policies.parameters
            self._previous = {name: torch.zeros_like(p) for name, p in stacked.items()}
        for name, parameter in parameters.items():
            self._previous[name][place].copy_(parameter.detach())
        self._has_previous.add(place)

    def _tracker_state(self, place: int) -> dict[str, Any] | None:
        """What the `Tracker` of this run alone would save."""
        if not self._configs[0].tracking.metrics:
            return None
        if place not in self._has_previous:
            return {"previous": None}
        return {"previous": {name: p[place].clone() for name, p in self._previous.items()}}

    def take_episodes(self, place: int) -> list[dict[str, Any]]:
        """A run's episodes that ended since they were last taken, in the order of their ends."""
        return self._rows[place].take_episodes()

    def state_dicts(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Everything that the rest of these runs depends on, but their configurations."""
        self._load_environments()
        environments = with_tensors(self._envs.state_dict())
        return [
            {
                "agent": self._agent.state_dict(place),
                "environments": _part(environments, self._own(place)),
                "tracker": self._tracker_state(place),
                **self._rows[place].state_dict(),
            }
            for place in places
        ]

    def _own(self, place: int) -> slice:
        each = self._configs[place].stream.num_envs
        return slice(place * each, (place + 1) * each)

    def load_state_dict(self, place: int, state: dict[str, Any]) -> None:
        """Continue a run from what it saved; all are to be as far as each other."""
        self._agent.load_state_dict(place, state["agent"])
        if state["agent"]["started"]:
            self._loaded[place] = state["environments"]
        if state["tracker"] is not None and state["tracker"]["previous"] is not None:
            self._keep_previous(place, state["tracker"]["previous"])
        self._rows[place].load_state_dict(state)

    def _load_environments(self) -> None:
        if not self._loaded:
            return
        states = [self._loaded[place] for place in range(len(self._configs))]
        self._envs.load_state_dict(_joined(states))
        self._loaded.clear()

    def rehearse(self) -> None:
        """Play and learn once, and measure."""
        self._agent.iterate()
        self._complete({place: {} for place in range(len(self._rows))})

    def close(self) -> None:
        """Let go of the simulator."""
        self._envs.close()

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Steps of a run that was saved so."""
        return float(state["agent"]["num_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: ControlRunConfig) -> bool:
        """Whether a run that was saved so has all its rows."""
        return has_all_rows(state, config)


class _WarpAnts(SlipperyAntWarp):
    """Ants whose error is one of the run."""

    def check(self) -> None:
        try:
            super().check()
        except RuntimeError as error:
            raise RunError(f"{error} What the last checkpoint holds is safe.") from error


def warp_ants(configs: Sequence[ControlRunConfig]) -> DeviceEnvironments:
    """The ants of some runs in one simulator on their device; each run's draw what they draw alone.

    Raises:
        torch.cuda.OutOfMemoryError: if they do not fit, for Warp as well as for torch.
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
        if "Failed to allocate" in str(error):  # Warp has no kind of error for it
            raise torch.cuda.OutOfMemoryError(str(error)) from error
        raise


def _part(state: Mapping[str, Any], own: slice) -> dict[str, Any]:
    """Some of the environments, from the state of all."""
    return {
        name: value[own].clone() if isinstance(value, Tensor) else value[own]
        for name, value in state.items()
    }


def _joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of all environments, from those of parts of them."""
    joined: dict[str, Any] = {}
    for name in states[0]:
        values = [each[name] for each in states]
        if isinstance(values[0], Tensor):
            joined[name] = torch.cat(values)
        else:
            joined[name] = [entry for value in values for entry in value]
    return joined
