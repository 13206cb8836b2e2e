"""Slippery-Ant run: joins the ants, PPO and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from plasticity.agents.ppo.agent import PPO
from plasticity.metrics.tracker import Tracker
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.adapted import Adapted
from plasticity.scripts.run.ant_rows import AntRows, ant_regularizers, has_all_rows
from plasticity.scripts.run.atomic_files import RunError
from plasticity.seeds import child_seed
from plasticity.tasks import ENGINES
from plasticity.tasks.vector.environments import DEVICE_ENGINES, slippery_ant_vector


class SingleAnts:
    """Work of a run between two rows of its `metrics.jsonl`: rollouts and their updates.

    `AntRows` decides when a row is due.

    Args:
        config: Configuration of the run.

    Raises:
        ImportError: if the physics engine is not installed.
    """

    def __init__(self, config: ControlRunConfig) -> None:
        self.config = config
        self._envs = slippery_ant_vector(
            config.stream.num_envs,
            num_workers=config.stream.num_cores if config.stream.num_cores > 1 else 0,
            engine=config.stream.engine,
            task_seed=child_seed(config.seed, "stream"),
            change_every=config.stream.change_every,
        )
        self._agent = PPO(
            self._envs,
            config.agent,
            *ant_regularizers(config),
            seed=config.seed,
            device=config.device,
            update_threads=min(config.stream.num_cores, 2),
        )
        probe = torch.zeros(2, self._agent.observations.shape[-1])  # replaced for each row
        self._tracker: Tracker | None = None
        if config.tracking.metrics:
            policy = self._agent.policy
            self._tracker = Tracker(policy, probe, config.tracking.metrics, policy.hidden_layers)
        self._rows = AntRows(config)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self._rows.finished

    @property
    def diverged(self) -> bool:
        """Whether a loss became NaN or infinite."""
        return self._rows.diverged

    @property
    def progress(self) -> float:
        """Steps made so far, summed over all environments."""
        return float(self._agent.num_steps)

    def close(self) -> None:
        """Stop the processes of the environments."""
        self._envs.close()

    def next_row(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Collect rollouts and learn until the next row is due.

        Args:
            should_stop: Called before every rollout.

        Returns:
            The row; None if stopped before it was due.
        """
        while not should_stop():
            iteration = self._agent.iterate()
            row = self._rows.take(iteration, self._agent.num_steps)
            if row is not None:
                if self._tracker is not None and not self.diverged:
                    row.update(self._tracker.take(self._agent.observations)[0])
                return row
        return None

    def take_episodes(self) -> list[dict[str, Any]]:
        """Return the episodes that ended since the last call, in the order of their ends."""
        return self._rows.take_episodes()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, except its configuration."""
        return {
            "agent": self._agent.state_dict(),
            "environments": with_tensors(self._envs.state_dict()),
            "tracker": None if self._tracker is None else self._tracker.state_dict(),
            **self._rows.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._agent.load_state_dict(state["agent"])
        self._envs.load_state_dict(state["environments"])
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._rows.load_state_dict(state)


class AntExperiment(Adapted):
    """Runs of Slippery-Ant, alone or stacked."""

    def __init__(self, configs: Sequence[ControlRunConfig], *, stacked: bool) -> None:
        from plasticity.scripts.run.stacked_ants import StackedAnts  # noqa: PLC0415

        made = StackedAnts(configs) if stacked else SingleAnts(configs[0])
        super().__init__(configs, made, stacked=stacked)

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the steps of a run with this saved state."""
        return float(state["agent"]["num_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: ControlRunConfig) -> bool:
        """Return whether a run with this saved state has all its rows."""
        return has_all_rows(state, config)

    @staticmethod
    def can_stack(config: ControlRunConfig) -> bool:
        """Return whether a run can be stacked: the engines of a CPU step each ant by itself."""
        return config.stream.engine in DEVICE_ENGINES

    @staticmethod
    def can_be_alone(config: ControlRunConfig) -> bool:
        """Return whether a run has an ordinary backend: all have but the ants of a GPU."""
        return config.stream.engine not in DEVICE_ENGINES

    @staticmethod
    def require_runnable(configs: Sequence[ControlRunConfig]) -> None:
        """Raise an error if an engine is not installed."""
        for engine in {each.stream.engine for each in configs}:
            _require_engine(engine)

    @staticmethod
    def modules(config: ControlRunConfig) -> Sequence[str]:
        """Return the modules that a run imports late."""
        return []


def _require_engine(engine: str) -> None:
    try:
        ENGINES[engine]().close()
        if engine == "warp":
            from plasticity.tasks.control.ant.warp_physics import load_modules  # noqa: PLC0415  (a GPU's engine)

            load_modules()
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from error


def with_tensors(state: Any) -> Any:
    """Return a copy with tensors for arrays, which `torch.load` reads with `weights_only=True`."""
    if isinstance(state, Mapping):
        return {name: with_tensors(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [with_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
