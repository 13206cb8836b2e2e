"""Image run: joins the permuted stream, the classifier and the tracker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from plasticity.agents.networks.image import ImageNetwork
from plasticity.agents.supervised.classifier import Classifier
from plasticity.metrics.norms import parameter_snapshot, update_norm
from plasticity.metrics.registry import Metric
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations import Shift, regularizer_settings
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.optim.shifted_model import ShiftedModel
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.adapted import Adapted
from plasticity.seeds import child_seed
from plasticity.tasks import ImageDataset, ImageTask, PermutedImages, load_dataset

FINITE = Metric("finite", lambda features: features.isfinite().all().to(features.dtype), "features")
"""Metric that is 1 where all features of a layer are finite, else 0."""


class SingleImages:
    """Work of a run between two rows of its `metrics.jsonl`: learning one task.

    Args:
        config: Configuration of the run.
        dataset: Images of the run. None: they are loaded.

    Raises:
        ValueError: if a setting and the data do not fit together.
    """

    def __init__(self, config: SupervisedRunConfig, dataset: ImageDataset | None = None) -> None:
        self.config = config
        if dataset is None:
            dataset = load_dataset(config.stream.dataset, data_dir=config.stream.data_dir)
        require_fitting(config, dataset)
        self._stream = image_stream(config, dataset)
        regularizer = image_regularizer(config)
        image_network = initial_network(config, dataset)
        self._hidden_layers = image_network.hidden_layers
        network: nn.Module = image_network
        shift = next((each for each in config.method if isinstance(each, Shift)), None)
        if shift is not None:
            assert regularizer.anchor_seed is not None
            anchors = _syre_anchors(image_network, shift.sigma, regularizer.anchor_seed)
            network = ShiftedModel(image_network, anchors, keep_function=False)
        self._classifier = Classifier(
            network,
            config.agent,
            regularizer,
            data_order_seed=child_seed(config.seed, "order"),
            device=config.device,
        )
        self._next_task = 0
        self._diverged = False
        self._before: dict[str, torch.Tensor] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self._diverged or self._next_task >= self.config.stream.num_tasks

    @property
    def diverged(self) -> bool:
        """Whether a loss or a feature became NaN or infinite."""
        return self._diverged

    @property
    def progress(self) -> float:
        """Number of tasks done; the current one counts by its share of steps."""
        return self._next_task + self._classifier.task_progress

    def next_row(self, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Learn the next task, or the rest of it.

        Args:
            should_stop: Called before every step.

        Returns:
            The task's row; None if stopped before its end.
        """
        if "update_norm" in self.config.tracking.metrics and self._before is None:
            self._before = parameter_snapshot(self._classifier.network)
        task = self._stream[self._next_task]
        if not self._classifier.train(task, should_stop):
            return None
        row: dict[str, Any] = {"task": task.index, **self._classifier.finish(task)}
        # Losses may be finite where features are not (a ReLU maps minus infinity to 0). Checked regardless
        # of the metrics, on which the course of a run must not depend.
        row["diverged"] = row["diverged"] or not all(self._measure(task, [FINITE]).values())
        if not row["diverged"] and self.config.tracking.metrics:
            row.update(self._measure(task, self._metrics()))
        self._diverged = bool(row["diverged"])
        self._before = None
        self._next_task += 1
        return row

    def take_episodes(self) -> list[dict[str, Any]]:
        """Return no episodes: a classifier has none."""
        return []

    def close(self) -> None:
        """Do nothing: there are no processes to stop."""

    def _measure(self, task: ImageTask, metrics: list[str | Metric]) -> dict[str, float]:
        """Return the measured values by metric and layer."""
        images, _ = next(iter(task.test_batches(self.config.tracking.probe_size)))
        network = self._classifier.network
        prefix = "model." if isinstance(network, ShiftedModel) else ""
        layers = [prefix + layer for layer in self._hidden_layers]
        measured = Tracker(network, images, metrics, layers).measure()
        return {name.replace(f"/{prefix}", "/"): value for name, value in measured.items()}

    def _metrics(self) -> list[str | Metric]:
        # Every task has a new tracker, which measures on its images and knows no earlier boundary: the
        # update is measured against the weights at the task's beginning.
        updates = Metric("update_norm", partial(update_norm, previous=self._before or {}), "model")
        return [updates if name == "update_norm" else name for name in self.config.tracking.metrics]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, except its configuration."""
        state: dict[str, Any] = {
            "classifier": self._classifier.state_dict(),
            "next_task": self._next_task,
            "diverged": self._diverged,
        }
        if self._before is not None:
            state["before"] = self._before
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._classifier.load_state_dict(state["classifier"])
        self._next_task = state["next_task"]
        self._diverged = state["diverged"]
        self._before = state.get("before")  # absent between two tasks


class ImageExperiment(Adapted):
    """Image runs, alone or stacked."""

    def __init__(
        self,
        configs: Sequence[SupervisedRunConfig],
        dataset: ImageDataset | None = None,
        *,
        stacked: bool,
    ) -> None:
        from plasticity.scripts.run.stacked_images import StackedImages  # noqa: PLC0415

        made = StackedImages(configs, dataset) if stacked else SingleImages(configs[0], dataset)
        super().__init__(configs, made, stacked=stacked)

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the number of tasks done by a run with this saved state."""
        classifier = state["classifier"]
        return float(state["next_task"] + classifier["step"] / classifier["task_steps"])

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: SupervisedRunConfig) -> bool:
        """Return whether a run with this saved state has all its tasks."""
        return bool(state["diverged"]) or int(state["next_task"]) >= config.stream.num_tasks

    @staticmethod
    def can_stack(config: SupervisedRunConfig) -> bool:
        """Return whether a run can be stacked: `Shift` wraps its network in another."""
        return not any(isinstance(each, Shift) for each in config.method)

    @staticmethod
    def can_be_alone(config: SupervisedRunConfig) -> bool:
        """Return True: the ordinary backend trains every run."""
        return True

    @staticmethod
    def require_runnable(configs: Sequence[SupervisedRunConfig]) -> None:
        """Raise an error if settings and data do not fit together; download the data."""
        load = cache(load_dataset)  # a grid may have many configurations on the same images
        for config in configs:
            require_fitting(config, load(config.stream.dataset, data_dir=config.stream.data_dir))

    @staticmethod
    def modules(config: SupervisedRunConfig) -> Sequence[str]:
        """Return the modules that a run imports late."""
        return ["sklearn.datasets"] if config.stream.dataset == "digits" else []


def image_stream(config: SupervisedRunConfig, dataset: ImageDataset) -> PermutedImages:
    """Return the tasks of a run, on its device."""
    return PermutedImages(
        dataset,
        num_tasks=config.stream.num_tasks,
        seed=child_seed(config.seed, "stream"),
        device=config.device,
    )


def initial_network(config: SupervisedRunConfig, dataset: ImageDataset) -> ImageNetwork:
    """Return the initial network of a run, on the CPU."""
    # Layers draw their initial weights from the global generator, which is seeded here and used for
    # nothing else.
    torch.manual_seed(child_seed(config.seed, "weights"))
    return ImageNetwork((1, *dataset.image_shape), dataset.num_classes, config.network)


def image_regularizer(config: SupervisedRunConfig) -> RegularizerSettings:
    """Return the settings with which a run's method regularizes every layer."""
    return regularizer_settings(config.method, child_seed(config.seed, "anchor"))


def require_fitting(config: SupervisedRunConfig, dataset: ImageDataset) -> None:
    """Raise an error if the settings do not fit the data, without building an experiment.

    Raises:
        ValueError: if a batch is larger than the training set, the probe larger than the test set,
            or the images too small for the network.
    """
    for option, wanted, split, labels in (
        ("--batch-size", config.agent.batch_size, "training", dataset.train_labels),
        ("--probe-size", config.tracking.probe_size, "test", dataset.test_labels),
    ):
        if wanted > len(labels):
            raise ValueError(
                f"{option} {wanted} is larger than the {len(labels)} {split} examples of"
                f" {config.stream.dataset}: give at most {len(labels)}."
            )
    with torch.device("meta"):  # shapes without memory
        ImageNetwork((1, *dataset.image_shape), dataset.num_classes, config.network)


def _syre_anchors(
    network: nn.Module, sigma: float, anchor_seed: int
) -> dict[str, torch.Tensor | None]:
    """Return the anchors that syre would decay this network toward, by parameter name."""
    optimizer = regularized(torch.optim.SGD)(
        network.parameters(), regularizer="syre", strength=0.0, sigma=sigma, anchor_seed=anchor_seed
    )
    return {name: optimizer.anchor(parameter) for name, parameter in network.named_parameters()}
