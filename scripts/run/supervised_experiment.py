"""Supervised runs: join streams of tasks, their training, and the measurements after each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from plasticity.agents.supervised.counts import STEPS_COUNTED_AT_ONCE
from plasticity.agents.supervised.optimizers import OPTIMIZERS
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.agents.supervised.task import require_validation
from plasticity.agents.supervised.trainer import Trainer
from plasticity.metrics.registry import METRICS
from plasticity.mitigations import SeededMethod
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.scripts.run.kernels import require_kernels
from plasticity.scripts.run.references import References, share_done
from plasticity.seeds import child_seed
from plasticity.tasks import SupervisedStream, TaskSpec, stack
from plasticity.tasks.streams.base import Task

REHEARSED_STEPS = STEPS_COUNTED_AT_ONCE
"""Number of steps after which a compiled step has been captured, and no more memory is allocated."""


class SupervisedExperiment:
    """Runs of a classifier on a stream: each has a row for each task.

    An `Experiment`, whose protocol describes the methods.

    Args:
        configs: Configurations of the runs; equal except for their methods and seeds.
        stacked: Whether the networks are stacked. Otherwise there is exactly one run.
        data: Data of the streams, on the device of the runs. None: they are loaded.

    Raises:
        ValueError: if a setting and the data do not fit together.
    """

    def __init__(
        self,
        configs: Sequence[SupervisedRunConfig],
        *,
        stacked: bool,
        data: Any = None,
    ) -> None:
        config = configs[0]
        self.configs = configs
        if data is None:
            data = config.stream.load(config.device)
        require_fitting(config, data)
        self._streams = [supervised_stream(each, data) for each in configs]
        self._lead = (len(configs),) if stacked else ()
        self._tasks = stack(self._streams) if stacked else self._streams[0]
        networks = self._initial_networks()
        self._layers: Sequence[str] = networks[0].hidden_layers  # type: ignore[assignment]
        self._trainer = _trainer(configs, networks, stacked=stacked)
        self._references = References(
            config.tracking.reference_every,
            len(configs),
            lambda: _trainer(configs, self._initial_networks(), stacked=stacked),
        )
        self._next_tasks = [0] * len(configs)
        self._diverged = [False] * len(configs)

    def _initial_networks(self) -> list[nn.Module]:
        return [initial_network(each, self._tasks[0].spec) for each in self.configs]

    @property
    def progress(self) -> float:
        """Number of tasks done; the current one counts by its share of steps, its reference included."""
        if not self._live:
            return float(self._next_task)
        share = self._trainer.task_progress
        return self._next_task + self._references.share_done(self._live[0], share)

    @property
    def _live(self) -> list[int]:
        return [run for run, diverged in enumerate(self._diverged) if not diverged]

    @property
    def _next_task(self) -> int:
        """Index of the next task of the runs that have not diverged."""
        tasks = {self._next_tasks[run] for run in self._live}
        if len(tasks) > 1:
            raise ValueError(
                f"The runs are at the tasks {sorted(tasks)}: only runs at the same task can be stacked."
            )
        return next(iter(tasks), self.configs[0].stream.num_tasks)

    def is_finished(self, run: int) -> bool:
        """Return whether a run is complete."""
        return self._diverged[run] or self._next_tasks[run] >= self.configs[0].stream.num_tasks

    def has_diverged(self, run: int) -> bool:
        """Return whether a run ended because a loss or a feature became NaN or infinite."""
        return self._diverged[run]

    def next_rows(self, should_stop: Callable[[], bool]) -> dict[int, dict[str, Any]]:
        """Learn the next task of every run, or the rest of it.

        Args:
            should_stop: Called before every step.

        Returns:
            Rows of the task by run; none if stopped before its end.
        """
        task = self._tasks[self._next_task]
        if not self._references.train(task, self._live, should_stop):
            return {}
        if not self._trainer.train(task, should_stop):
            return {}
        results = self._trainer.finish(task)
        rows: dict[int, dict[str, Any]] = {
            run: {
                "task": task.index,
                **self._streams[run].describe(task.index),
                **results[run],
                **self._references.take(run, results[run]),
            }
            for run in self._live
        }
        self._measure(rows, task)
        for run, row in rows.items():
            self._next_tasks[run] += 1
            if row["diverged"]:
                self._diverged[run] = True
                self._trainer.freeze(run)
        return rows

    def _measure(self, rows: dict[int, dict[str, Any]], task: Task) -> None:
        """Add the metrics to these rows."""
        tracking = self.configs[0].tracking
        probe, labels = self._probe(task, tracking.probe_size)
        sound = [run for run, row in rows.items() if not row["diverged"]]
        measured = self._trainer.measure(probe, tracking.metrics, self._layers, sound, labels)
        for run, row in rows.items():
            # Losses may be finite where features are not (a ReLU maps minus infinity to 0). Checked
            # regardless of the metrics, on which the course of a run must not depend.
            row["diverged"] = run not in measured
            row.update(measured.get(run, {}))

    def _probe(self, task: Task, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first inputs and labels of the test set; of the training set if there is no other."""
        if task.num_test:
            inputs, labels = next(iter(task.test_batches(size)))
            return inputs, labels
        indices = torch.arange(size, device=self._trainer.device)
        return task.train_batch(indices.expand(*self._lead, -1))

    def take_episodes(self, run: int) -> list[dict[str, Any]]:
        """Return no episodes: a classifier has none."""
        return []

    def state_dicts(self, runs: Sequence[int]) -> list[dict[str, Any]]:
        """Return the states of these runs."""
        return [
            {
                "classifier": self._trainer.state_dict(run),
                "reference": self._references.state_dict(run),
                "next_task": self._next_tasks[run],
                "diverged": self._diverged[run],
            }
            for run in runs
        ]

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Continue a run from its state; in the end, all runs must have the same progress."""
        self._trainer.load_state_dict(state["classifier"], run)
        self._references.load_state_dict(state["reference"], run)
        self._next_tasks[run] = state["next_task"]
        self._diverged[run] = state["diverged"]
        if self._diverged[run]:
            self._trainer.freeze(run)

    def rehearse(self) -> None:
        """Do a few steps, and measure."""
        steps = iter(range(REHEARSED_STEPS))
        task = self._tasks[0]
        self._trainer.train(task, lambda: next(steps, None) is None)
        self._measure(dict(enumerate(self._trainer.finish(task))), task)
        steps = iter(range(REHEARSED_STEPS))
        self._references.train(task, self._live, lambda: next(steps, None) is None)

    def close(self) -> None:
        """Do nothing: there are no processes to stop."""

    @staticmethod
    def progress_of(state: dict[str, Any]) -> float:
        """Return the number of tasks done by a run with this state."""
        classifier = state["classifier"]
        share = classifier["step"] / classifier["task_steps"]
        return float(state["next_task"] + share_done(state["reference"], share))

    @staticmethod
    def is_finished_at(state: dict[str, Any], config: SupervisedRunConfig) -> bool:
        """Return whether a run with this state has all its tasks."""
        return bool(state["diverged"]) or int(state["next_task"]) >= config.stream.num_tasks

    @staticmethod
    def can_stack(config: SupervisedRunConfig) -> bool:
        """Return whether a run can be stacked: not with a kernel, nor an optimizer without a stacked form."""
        agent = config.agent
        has_form = agent.kernel == "eager" and agent.optimizer in OPTIMIZERS
        return has_form and config.not_stackable is None

    @staticmethod
    def can_be_alone(config: SupervisedRunConfig) -> bool:
        """Return True: the ordinary backend trains every run."""
        return True

    @staticmethod
    def require_runnable(configs: Sequence[SupervisedRunConfig]) -> None:
        """Raise an error if settings and data do not fit together; download the data."""
        require_kernels(configs)
        load = lru_cache(maxsize=1)(
            lambda stream: stream.load()
        )  # a grid has many on the same data
        for config in configs:
            require_fitting(config, load(config.stream))

    @staticmethod
    def modules(config: SupervisedRunConfig) -> Sequence[str]:
        """Return the modules that a run imports late."""
        return config.stream.modules


def supervised_stream(config: SupervisedRunConfig, data: Any) -> SupervisedStream[Task]:
    """Return the tasks of a run."""
    return config.stream.make(data, child_seed(config.seed, "stream"))


def initial_network(config: SupervisedRunConfig, spec: TaskSpec) -> nn.Module:
    """Return the initial network of a run, on the CPU."""
    # Layers draw their initial weights from the global generator, which is seeded here and used for
    # nothing else.
    torch.manual_seed(child_seed(config.seed, "weights"))
    return _built(config, spec)


def _built(config: SupervisedRunConfig, spec: TaskSpec) -> nn.Module:
    return config.network.make(spec.input_shape, spec.output_size, config.method)


def require_fitting(config: SupervisedRunConfig, data: Any) -> None:
    """Raise an error if the settings do not fit the data, without building an experiment.

    Raises:
        ValueError: if the stream cannot be made, a batch is larger than the first task's training set, the
            probe larger than its test set (its training set, if there is no other), or the inputs too small
            for the network.
    """
    task = supervised_stream(config, data)[0]
    train, test = (task.num_train, "training"), (task.num_test, "test")
    for option, wanted, (count, split) in (
        ("--batch-size", config.agent.batch_size, train),
        ("--probe-size", config.tracking.probe_size, test if task.num_test else train),
    ):
        if wanted > count:
            raise ValueError(
                f"{option} {wanted} is larger than the {count} {split} examples of the first task of"
                f" {config.benchmark}: give at most {count}."
            )
    if config.agent.keep_best:
        require_validation(task)
    needing = [each.name for each in config.method if each.needs_logits]
    if task.spec.loss == "regression" and needing:
        raise ValueError(
            f"{needing[0]} compares distributions over classes, and {config.benchmark} has numbers to"
            " predict: choose another setting of it, or another method."
        )
    with torch.device("meta"):  # shapes without memory
        _built(config, task.spec)


def _trainer(
    configs: Sequence[SupervisedRunConfig], networks: Sequence[nn.Module], *, stacked: bool
) -> Trainer:
    """Return the training of these networks, at its beginning."""
    config = configs[0]

    methods = [
        SeededMethod(
            each.method,
            anchor_seed=child_seed(each.seed, "anchor"),
            noise_seed=child_seed(each.seed, "mitigations"),
        )
        for each in configs
    ]
    order_seeds = [child_seed(each.seed, "order") for each in configs]
    kinds = {METRICS[name].kind for name in config.tracking.metrics}
    if stacked:
        return StackedClassifier(
            networks,
            config.agent,
            methods,
            data_order_seeds=order_seeds,
            device=config.device,
            keep_start="update" in kinds,
            keep_last="step" in kinds,
        )
    return Classifier(
        networks[0],
        config.agent,
        methods[0],
        data_order_seed=order_seeds[0],
        device=config.device,
        keep_start="update" in kinds,
        keep_last="step" in kinds,
        keep_gradients="gradient_norm" in config.tracking.metrics,
    )
