"""Slippery-Ant run: joins the ants, PPO and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from plasticity.agents.ppo.agent import PPO
from plasticity.metrics.tracker import Tracker
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.run.ant_rows import AntRows, ant_regularizers
from plasticity.seeds import child_seed
from plasticity.tasks.control.ant.engines import slippery_ant_vector


class AntExperiment:
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


def with_tensors(state: Any) -> Any:
    """Return a copy with tensors for arrays, which `torch.load` reads with `weights_only=True`."""
    if isinstance(state, Mapping):
        return {name: with_tensors(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [with_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
