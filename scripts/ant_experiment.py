"""One Slippery-Ant run: joins the ants, PPO and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from plasticity.agents.ppo import PPO, Episode, Iteration
from plasticity.scripts.benchmarks import METHODS
from plasticity.scripts.configuration import AntRunConfig
from plasticity.seeds import child_seed
from plasticity.settings import RegularizerSettings
from plasticity.tasks.friction import task_friction
from plasticity.tasks.vector import slippery_ant_vector
from plasticity.tracker import Tracker


class AntExperiment:
    """What a run does between two rows of its `metrics.jsonl`: rollouts and their updates.

    A row comes every `measure_every` steps, and one at each change of friction, at the end of the rollout
    in which the first ant met its new ground. That one tells of the task that ended.

    Args:
        config: Of the run.

    Raises:
        ImportError: if the physics engine is not installed.
    """

    def __init__(self, config: AntRunConfig) -> None:
        self.config = config
        self._envs = slippery_ant_vector(
            config.num_envs,
            num_workers=config.cores if config.cores > 1 else 0,
            task_seed=child_seed(config.seed, "stream"),
            change_every=config.change_every,
        )
        self._agent = PPO(
            self._envs,
            config.agent,
            self._regularizer("actor", config.strength, config.sigma),
            self._regularizer(
                "critic",
                config.strength if config.critic_strength is None else config.critic_strength,
                config.sigma if config.critic_sigma is None else config.critic_sigma,
            ),
            seed=config.seed,
            device=config.device,
            update_threads=min(config.cores, 2),
        )
        probe = torch.zeros(2, self._agent.observations.shape[-1])  # each row brings its own
        self._tracker: Tracker | None = None
        if config.metrics:
            policy = self._agent.policy
            self._tracker = Tracker(policy, probe, config.metrics, policy.hidden_layers)
        self._task = 0
        self._row_steps = 0
        self._since_row: list[Episode] = []
        self._untaken: list[Episode] = []
        self._diverged = False

    def _regularizer(self, network: str, strength: float, sigma: float) -> RegularizerSettings:
        method = METHODS[self.config.method]
        return RegularizerSettings(
            regularizer=method.regularizer,
            strength=strength if method.uses_strength else 0.0,
            sigma=sigma,
            anisotropy=self.config.anisotropy,
            decoupled=self.config.decoupled,
            anchor_seed=child_seed(self.config.seed, f"{network} anchor"),
        )

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        # Only a row ends a run: an extended run is then the same as one that was longer from the start.
        return self._diverged or self._row_steps >= self.config.num_steps

    @property
    def diverged(self) -> bool:
        """Whether a loss became NaN or infinite."""
        return self._diverged

    @property
    def progress(self) -> float:
        """Steps of all environments together."""
        return float(self._agent.num_steps)

    def close(self) -> None:
        """End the environments' processes."""
        self._envs.close()

    def next_row(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Play and learn until the next row.

        Args:
            should_stop: Asked before every rollout.

        Returns:
            The row; None if stopped before it.
        """
        while not should_stop():
            iteration = self._agent.iterate()
            self._since_row += iteration.episodes
            self._untaken += iteration.episodes
            newest = self._task if iteration.task is None else iteration.task
            boundary = newest > self._task
            if boundary or iteration.diverged or self._is_due():
                row = self._row(iteration, boundary=boundary)
                self._task = newest
                return row
        return None

    def _is_due(self) -> bool:
        return self._agent.num_steps % self.config.measure_every == 0

    def _row(self, iteration: Iteration, *, boundary: bool) -> dict[str, Any]:
        """What a row says; of a task that ended, at a boundary."""
        self._diverged = iteration.diverged
        if self._is_due():
            self._row_steps = self._agent.num_steps
        # All that ended since the row before: around a change, some of them on the ground before.
        episodes, self._since_row = self._since_row, []
        row: dict[str, Any] = {
            "step": self._agent.num_steps,
            "task": self._task,
            "friction": task_friction(child_seed(self.config.seed, "stream"), self._task),
            "boundary": boundary,
            "episodes": len(episodes),
            "episode_return": _mean([each.episode_return for each in episodes]),
            "episode_length": _mean([float(each.episode_length) for each in episodes]),
            **iteration.statistics,
            "diverged": self._diverged,
        }
        if self._tracker is not None and not self._diverged:
            measured = self._tracker.boundary(self._task, self._agent.observations)
            row.update({name: value for name, value in measured.items() if name != "task"})
        return row

    def take_episodes(self) -> list[dict[str, Any]]:
        """The episodes that ended since they were last taken, in the order of their ends."""
        taken, self._untaken = self._untaken, []
        return [asdict(each) for each in taken]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, but its configuration."""
        return {
            "agent": self._agent.state_dict(),
            "environments": _with_tensors(self._envs.state_dict()),
            "tracker": None if self._tracker is None else self._tracker.state_dict(),
            "task": self._task,
            "row_steps": self._row_steps,
            "since_row": [asdict(each) for each in self._since_row],
            "untaken": [asdict(each) for each in self._untaken],
            "diverged": self._diverged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._agent.load_state_dict(state["agent"])
        self._envs.load_state_dict(state["environments"])
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._task = state["task"]
        self._row_steps = state["row_steps"]
        self._since_row = [Episode(**each) for each in state["since_row"]]
        self._untaken = [Episode(**each) for each in state["untaken"]]
        self._diverged = state["diverged"]


def _with_tensors(state: Any) -> Any:
    """The same with tensors for arrays, which a checkpoint can hold without being trusted."""
    if isinstance(state, Mapping):
        return {name: _with_tensors(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_with_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
