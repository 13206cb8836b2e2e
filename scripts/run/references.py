"""Fresh networks as references: what a new network reaches on the task that an old one learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from plasticity.agents.supervised.trainer import Trainer
from plasticity.random_state import random_state, set_random_state
from plasticity.scripts.report.metric_names import GAP, LOSS_GAP, REFERENCE, is_better_lower
from plasticity.tasks.streams.base import Task

RESULTS = ("test_accuracy", "online_accuracy", "train_accuracy", "test_loss", "online_loss")
"""Results of a fresh network that a row tells. The gap is that of the first one that the task has."""


class References:
    """Fresh networks of some runs, each trained on every n-th task by itself and compared with its run.

    A fresh network has all of its run but the past: settings, method, initial weights, data order and noise.
    On the first task it is the run's own network once more, and the gap is exactly 0. Its training comes
    before that of the run on the same task, stops and continues as that does, and touches nothing of it.

    Args:
        every: Tasks from one reference to the next, from task 0 on. None: there are no references.
        runs: Number of runs.
        make: Function that returns the training of the fresh networks of all runs, at its beginning.
    """

    def __init__(self, every: int | None, runs: int, make: Callable[[], Trainer]) -> None:
        self._every, self._make = every, make
        self._results: list[dict[str, float]] = [{} for _ in range(runs)]
        self._trainer: Trainer | None = None
        # Process-wide generators while fresh networks are made and trained: layers may draw from them.
        self._random: dict[str, Any] | None = None
        # States of the training by run, until all are there and it continues.
        self._loaded: dict[int, dict[str, Any]] = {}

    def is_due(self, task: int) -> bool:
        """Return whether there is a reference for the task with this index."""
        return self._every is not None and task % self._every == 0

    def train(self, task: Task, live: Sequence[int], should_stop: Callable[[], bool]) -> bool:
        """Train the fresh networks on a task, if a reference is due, or continue.

        Args:
            task: The task, or the stacked ones of the runs.
            live: Runs that have not ended.
            should_stop: As in `Trainer.train`.

        Returns:
            Whether there is nothing left to train.
        """
        if not self.is_due(task.index) or all(self._results[run] for run in live):
            return True
        with self._own_generators():
            if self._trainer is None:
                self._trainer = self._begun(task, live)
            if not self._trainer.train(task, should_stop):
                return False
            for run, found in enumerate(self._trainer.finish(task)):
                self._results[run] = {key: found[key] for key in RESULTS if key in found}
        self._trainer = self._random = None
        return True

    def _begun(self, task: Task, live: Sequence[int]) -> Trainer:
        trainer = self._make()
        trainer.begin_with(task.index)
        for run, state in self._loaded.items():
            trainer.load_state_dict(state, run)
        self._loaded.clear()
        for run in set(range(trainer.num_networks)).difference(live):
            trainer.freeze(run)
        if self._random is not None:
            set_random_state(self._random)
        return trainer

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Keep the state of the process-wide generators of the runs apart from that of fresh networks."""
        before = random_state()
        if self._random is not None:
            set_random_state(self._random)
        try:
            yield
        finally:
            self._random = random_state()
            set_random_state(before)

    def take(self, run: int, row: Mapping[str, Any]) -> dict[str, float]:
        """Return the entries that a run's row gets, once: the fresh network's results, and the gap.

        Args:
            run: Index of the run.
            row: Its row of the same task, with its own results.
        """
        found, self._results[run] = self._results[run], {}
        if not found:
            return {}
        compared = next(iter(found))
        entries = {f"{REFERENCE}{name}": value for name, value in found.items()}
        better = found[compared] - row[compared]
        if is_better_lower(compared):
            return {**entries, LOSS_GAP: -better}
        return {**entries, GAP: better}

    def share_done(self, run: int, own: float) -> float:
        """Return the share of a task's work that is done; that of a task with a reference is twice as much.

        Args:
            run: Index of a run.
            own: Share of the run's own steps, from 0 to 1.
        """
        if self._trainer is not None:
            return self._trainer.task_progress / 2
        return share_done(self.state_dict(run), own)

    def state_dict(self, run: int) -> dict[str, Any] | None:
        """Return how far the reference of a run's next row is; None if it has not begun."""
        if self._results[run]:
            return {"results": dict(self._results[run]), "training": None, "random": None}
        training = self._loaded.get(run)
        if self._trainer is not None:
            training = self._trainer.state_dict(run)
        if training is None:
            return None
        return {"results": {}, "training": training, "random": self._random}

    def load_state_dict(self, state: Mapping[str, Any] | None, run: int) -> None:
        """Continue from a `state_dict`; in the end, all runs must have references that are as far."""
        self._trainer = None
        self._loaded.pop(run, None)
        self._results[run] = {} if state is None else dict(state["results"])
        if state is not None and state["training"] is not None:
            self._loaded[run], self._random = state["training"], state["random"]


def share_done(reference: Mapping[str, Any] | None, own: float) -> float:
    """Return the share of a task's work that is done, as `References.share_done`.

    Args:
        reference: State of the run's reference.
        own: Share of the run's own steps, from 0 to 1.
    """
    if reference is None:
        return own
    training = reference["training"]
    return (1 + own) / 2 if training is None else training["step"] / training["task_steps"] / 2
