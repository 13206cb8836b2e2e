"""Image runs that train at once: their networks are stacked, their streams share one dataset."""

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
from plasticity.tasks.streams.stacked_permuted_images import StackedImageTask, StackedPermutedImages

REHEARSED_STEPS = 8
"""Steps after which a compiled step has been captured, and all of its memory taken."""


class StackedImages:
    """Runs of an image benchmark with one `StackedClassifier`: each has a row for each task.

    Args:
        configs: Of the runs; equal but for method, seed and decay.
        dataset: Of the runs; None: it is loaded.

    Raises:
        ValueError: if a setting and the data do not go together, or a run's method shifts.
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
        self._streams = StackedPermutedImages([image_stream(each, dataset) for each in configs])
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
        self._before: dict[str, Tensor] | None = None  # of the task's beginning, stacked

    @property
    def progress(self) -> float:
        """Tasks done, the one under way counted by its steps."""
        return self._next_task + self._classifier.task_progress

    @property
    def _live(self) -> list[int]:
        return [place for place, diverged in enumerate(self._diverged) if not diverged]

    @property
    def _next_task(self) -> int:
        """Of the runs that go on."""
        places = {self._next_tasks[place] for place in self._live}
        if len(places) > 1:
            raise ValueError(
                f"The runs are at the tasks {sorted(places)}: only runs of one place train together."
            )
        return next(iter(places), self.configs[0].stream.num_tasks)

    def is_finished(self, place: int) -> bool:
        """Whether there is nothing left to do for a run."""
        return self._diverged[place] or self._next_tasks[place] >= self.configs[0].stream.num_tasks

    def has_diverged(self, place: int) -> bool:
        """Whether a run ended because a loss or a feature became NaN or infinite."""
        return self._diverged[place]

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Learn the next task of every run, or what is left of it.

        Args:
            should_stop: Asked before every step.

        Returns:
            The tasks' rows by place; none if stopped before their end.
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
        rows = {place: {"task": tasks.index, **figures[place]} for place in self._live}
        self._complete(rows, tasks)
        self._before = None
        for place in rows:
            self._next_tasks[place] += 1
            if rows[place]["diverged"]:
                self._diverged[place] = True
                self._classifier.freeze(place)
        return rows

    def _complete(self, rows: dict[int, dict[str, Any]], tasks: StackedImageTask) -> None:
        """Add what is measured of the networks, all of them at once."""
        config, replicas = self.configs[0], self._classifier.networks
        probe, _ = next(iter(tasks.test_batches(config.tracking.probe_size)))
        features = stacked_features(replicas, probe, self._hidden_layers)
        finite = finite_networks(features).tolist()
        for place, row in rows.items():  # as in `ImageExperiment.next_row`
            row["diverged"] = row["diverged"] or not finite[place]
        sound = [place for place, row in rows.items() if not row["diverged"]]
        if config.tracking.metrics:
            measured = stacked_metrics(
                replicas, features, config.tracking.metrics, indices=sound, previous=self._before
            )
            for place, numbers in zip(sound, measured, strict=True):
                rows[place].update(numbers)

    def take_episodes(self, place: int) -> list[dict[str, Any]]:
        """None: a classifier plays no episodes."""
        return []

    def state_dicts(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """What `ImageExperiment` saves of each of these runs."""
        return [self._state_dict(place) for place in places]

    def _state_dict(self, place: int) -> dict[str, Any]:
        state: dict[str, Any] = {
            "classifier": self._classifier.state_dict(place),
            "next_task": self._next_tasks[place],
            "diverged": self._diverged[place],
        }
        if self._before is not None:
            state["before"] = {name: tensor[place].clone() for name, tensor in self._before.items()}
        return state

    def load_state_dict(self, place: int, state: dict[str, Any]) -> None:
        """Continue a run from what it saved; all are to be as far as each other."""
        self._classifier.load_state_dict(place, state["classifier"])
        self._next_tasks[place] = state["next_task"]
        self._diverged[place] = state["diverged"]
        if self._diverged[place]:
            self._classifier.freeze(place)
        if "before" in state:  # absent between two tasks
            if self._before is None:
                stacked = self._classifier.networks.parameters
                self._before = {name: torch.empty_like(p) for name, p in stacked.items()}
            for name, tensor in state["before"].items():
                self._before[name][place].copy_(tensor)

    def rehearse(self) -> None:
        """Do a few steps, and measure."""
        steps = iter(range(REHEARSED_STEPS))
        tasks = self._streams[0]
        self._classifier.train(tasks, lambda: next(steps, None) is None)
        figures = self._classifier.finish(tasks)
        self._complete({place: figures[place] for place in self._live}, tasks)

    def close(self) -> None:
        """It has no processes of its own."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Tasks done by a run that was saved so."""
        classifier = state["classifier"]
        return float(state["next_task"] + classifier["step"] / classifier["task_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: SupervisedRunConfig) -> bool:
        """Whether a run that was saved so has all its tasks."""
        return bool(state["diverged"]) or int(state["next_task"]) >= config.stream.num_tasks
