"""Stacked image runs: their networks are stacked, their streams share one dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.supervised.stacked_classifier import StackedClassifier
from plasticity.metrics.stacked import finite_networks, stacked_features, stacked_metrics
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.image_experiment import (
    image_regularizer,
    image_stream,
    initial_network,
    require_fitting,
)
from plasticity.seeds import child_seed
from plasticity.tasks import ImageDataset, load_dataset
from plasticity.tasks.streams.base import Task, stack

REHEARSED_STEPS = 8
"""Number of steps after which a compiled step has been captured and has allocated all its memory."""


class StackedImages:
    """Runs of an image benchmark with one `StackedClassifier`: each has a row for each task.

    Args:
        configs: Configurations of the runs; equal except for their methods and seeds.
        dataset: Images of the runs. None: they are loaded.

    Raises:
        ValueError: if a setting and the data do not fit together.
    """

    def __init__(
        self, configs: Sequence[SupervisedRunConfig], dataset: ImageDataset | None = None
    ) -> None:
        config = configs[0]
        self.configs = configs
        if dataset is None:
            dataset = load_dataset(config.stream.dataset, data_dir=config.stream.data_dir)
        require_fitting(config, dataset)
        dataset = dataset.to(config.device)  # once: the streams share it
        self._streams = stack([image_stream(each, dataset) for each in configs])
        networks = [initial_network(each, dataset) for each in configs]
        self._hidden_layers = networks[0].hidden_layers
        self._classifier = StackedClassifier(
            networks,
            config.agent,
            [image_regularizer(each) for each in configs],
            data_order_seeds=[child_seed(each.seed, "order") for each in configs],
            device=config.device,
        )
        self._next_tasks = [0] * len(configs)
        self._diverged = [False] * len(configs)
        self._before: dict[str, Tensor] | None = None  # stacked parameters at the task's beginning

    @property
    def progress(self) -> float:
        """Number of tasks done; the current one counts by its share of steps."""
        return self._next_task + self._classifier.task_progress

    @property
    def _live(self) -> list[int]:
        return [index for index, diverged in enumerate(self._diverged) if not diverged]

    @property
    def _next_task(self) -> int:
        """Index of the next task of the runs that have not diverged."""
        tasks = {self._next_tasks[index] for index in self._live}
        if len(tasks) > 1:
            raise ValueError(
                f"The runs are at the tasks {sorted(tasks)}: only runs at the same task can be stacked."
            )
        return next(iter(tasks), self.configs[0].stream.num_tasks)

    def is_finished(self, index: int) -> bool:
        """Return whether a run is complete."""
        return self._diverged[index] or self._next_tasks[index] >= self.configs[0].stream.num_tasks

    def has_diverged(self, index: int) -> bool:
        """Return whether a run ended because a loss or a feature became NaN or infinite."""
        return self._diverged[index]

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Learn the next task of every run, or the rest of it.

        Args:
            should_stop: Called before every step.

        Returns:
            Rows of the tasks by index; none if stopped before their end.
        """
        if "update_norm" in self.configs[0].tracking.metrics and self._before is None:
            self._before = {
                name: parameter.detach().clone()
                for name, parameter in self._classifier.networks.parameters.items()
            }
        tasks = self._streams[self._next_task]
        if not self._classifier.train(tasks, should_stop):
            return {}
        figures = self._classifier.finish(tasks)
        rows = {index: {"task": tasks.index, **figures[index]} for index in self._live}
        self._complete(rows, tasks)
        self._before = None
        for index in rows:
            self._next_tasks[index] += 1
            if rows[index]["diverged"]:
                self._diverged[index] = True
                self._classifier.freeze(index)
        return rows

    def _complete(self, rows: dict[int, dict[str, Any]], tasks: Task) -> None:
        """Add the metrics to these rows, measured on the stacked networks."""
        config, networks = self.configs[0], self._classifier.networks
        probe, _ = next(iter(tasks.test_batches(config.tracking.probe_size)))
        features = stacked_features(networks, probe, self._hidden_layers)
        finite = finite_networks(features).tolist()
        for index, row in rows.items():  # as in `ImageExperiment.next_row`
            row["diverged"] = row["diverged"] or not finite[index]
        sound = [index for index, row in rows.items() if not row["diverged"]]
        if config.tracking.metrics:
            measured = stacked_metrics(
                networks, features, config.tracking.metrics, indices=sound, previous=self._before
            )
            for index, numbers in zip(sound, measured, strict=True):
                rows[index].update(numbers)

    def take_episodes(self, index: int) -> list[dict[str, Any]]:
        """Return no episodes: a classifier has none."""
        return []

    def state_dicts(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs, as `ImageExperiment` saves them."""
        return [self._state_dict(index) for index in indices]

    def _state_dict(self, index: int) -> dict[str, Any]:
        state: dict[str, Any] = {
            "classifier": self._classifier.state_dict(index),
            "next_task": self._next_tasks[index],
            "diverged": self._diverged[index],
        }
        if self._before is not None:
            state["before"] = {name: tensor[index].clone() for name, tensor in self._before.items()}
        return state

    def load_state_dict(self, index: int, state: dict[str, Any]) -> None:
        """Continue a run from a saved state; all runs must have the same progress."""
        self._classifier.load_state_dict(index, state["classifier"])
        self._next_tasks[index] = state["next_task"]
        self._diverged[index] = state["diverged"]
        if self._diverged[index]:
            self._classifier.freeze(index)
        if "before" in state:  # absent between two tasks
            if self._before is None:
                stacked = self._classifier.networks.parameters
                self._before = {name: torch.empty_like(p) for name, p in stacked.items()}
            for name, tensor in state["before"].items():
                self._before[name][index].copy_(tensor)

    def rehearse(self) -> None:
        """Do a few steps, and measure."""
        steps = iter(range(REHEARSED_STEPS))
        tasks = self._streams[0]
        self._classifier.train(tasks, lambda: next(steps, None) is None)
        figures = self._classifier.finish(tasks)
        self._complete({index: figures[index] for index in self._live}, tasks)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the number of tasks done by a run with this saved state."""
        classifier = state["classifier"]
        return float(state["next_task"] + classifier["step"] / classifier["task_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: SupervisedRunConfig) -> bool:
        """Return whether a run with this saved state has all its tasks."""
        return bool(state["diverged"]) or int(state["next_task"]) >= config.stream.num_tasks
