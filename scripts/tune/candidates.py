"""Settings to try: which ones a method has, and which of them a search tries."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from plasticity.scripts.config.grid import Axis, settings_name
from plasticity.scripts.config.settings_by_option import concerns
from plasticity.seeds import child_seed

Settings = Mapping[str, Any]
"""Values by option: {"learning-rate": 0.01, "syre.sigma": 0.3}."""

ROUND = 5
"""Number of settings that Optuna proposes before it learns how they did."""


class Search(Protocol):
    """Search of the settings of one method."""

    def rounds(self) -> Iterator[Sequence[Settings]]:
        """Yield the settings to try, a round at a time; `learn` is called between two rounds."""

    def learn(self, scores: Sequence[float | None]) -> None:
        """Take the scores of the latest round, of which higher ones are better; None: it diverged."""


def axes_of(axes: Sequence[Axis], method: str) -> list[Axis]:
    """Return the axes of a grid that a method makes use of."""
    return [axis for axis in axes if concerns(axis.option, method)]


def number_of_settings(axes: Sequence[Axis]) -> int:
    """Return the number of combinations of a grid."""
    return math.prod(len(axis.values) for axis in axes)


class GridSearch:
    """Search of all combinations, or of as many as the budget allows, drawn at random without repetition.

    Args:
        axes: Settings of the method, with their values.
        budget: Largest number of combinations.
        seed: Seed of the draw.
    """

    def __init__(self, axes: Sequence[Axis], budget: int, seed: int) -> None:
        every = number_of_settings(axes)
        chosen = range(every)
        if every > budget:
            chosen = sorted(random.Random(seed).sample(range(every), budget))  # type: ignore[assignment]
        self._axes, self._chosen = axes, chosen

    def rounds(self) -> Iterator[Sequence[Settings]]:
        """Yield all of them at once."""
        yield [self._at(index) for index in self._chosen]

    def learn(self, scores: Sequence[float | None]) -> None:
        """Do nothing: the choice depends on no score."""

    def _at(self, index: int) -> Settings:
        """Return one combination, by its number: the last axis changes fastest."""
        found = {}
        for axis in reversed(self._axes):
            index, position = divmod(index, len(axis.values))
            found[axis.option] = axis.values[position]
        return {axis.option: found[axis.option] for axis in self._axes}


class OptunaSearch:
    """Search by Optuna's tree-structured Parzen estimator, over the values of a grid, in rounds.

    Settings that it proposes again count as tried. The same command proposes the same settings again, so that
    a search that was stopped continues.

    Args:
        axes: Settings of the method, with their values.
        budget: Largest number of proposals.
        seed: Seed of the sampler.

    Raises:
        ModuleNotFoundError: if Optuna is not installed.
    """

    def __init__(self, axes: Sequence[Axis], budget: int, seed: int) -> None:
        try:
            import optuna  # noqa: PLC0415  (an extra)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                '--search optuna needs the package optuna: pip install "plasticity[tune]".'
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=2 * ROUND)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._failed = optuna.trial.TrialState.FAIL
        categories = optuna.distributions.CategoricalDistribution
        # Values by their position: a value may be a tuple, which Optuna cannot save.
        self._distributions = {
            axis.option: categories(tuple(range(len(axis.values)))) for axis in axes
        }
        self._values = {axis.option: axis.values for axis in axes}
        self._left = min(budget, number_of_settings(axes))
        self._asked: list[tuple[Any, int]] = []

    def rounds(self) -> Iterator[Sequence[Settings]]:
        """Yield `ROUND` settings at a time, without those tried before."""
        tried: set[str] = set()
        while self._left > 0:
            trials = [self._study.ask(self._distributions) for _ in range(min(ROUND, self._left))]
            self._left -= len(trials)
            fresh: list[Settings] = []
            self._asked = []
            for trial in trials:
                settings = {
                    option: values[trial.params[option]] for option, values in self._values.items()
                }
                if settings_name(settings) in tried:
                    self._study.tell(trial, state=self._failed)  # it learns nothing new
                    continue
                tried.add(settings_name(settings))
                self._asked.append((trial, len(fresh)))
                fresh.append(settings)
            if fresh:
                yield fresh

    def learn(self, scores: Sequence[float | None]) -> None:
        """Report the scores of the latest round."""
        for trial, position in self._asked:
            score = scores[position]
            if score is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, score)


def search_of(kind: str, axes: Sequence[Axis], budget: int, method: str) -> Search:
    """Return the search of a method's settings.

    Args:
        kind: "random", "grid" or "optuna".
        axes: Settings of the method, with their values; without any, there is one setting, the default.
        budget: Largest number of settings.
        method: Name of the method, which the seed of the draws belongs to.

    Raises:
        ValueError: if a grid has more combinations than the budget.
        ModuleNotFoundError: if Optuna is wanted and not installed.
    """
    every = number_of_settings(axes)
    if kind == "grid" and every > budget:
        raise ValueError(
            f"--search grid: {method} has {every} settings, more than --budget {budget}. Give a smaller"
            " --grid, a larger budget for all methods, or --search random."
        )
    seed = child_seed(0, f"tune/{method}")
    if kind == "optuna" and axes:
        return OptunaSearch(axes, budget, seed)
    return GridSearch(axes, budget, seed)
