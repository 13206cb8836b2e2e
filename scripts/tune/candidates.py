"""Settings to try: which ones a method has, and which of them a search tries."""

from __future__ import annotations

import itertools
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


ATTEMPTS = 20
"""Number of balanced draws that repeat an earlier one, after which any other combination will do."""


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
    """Search of all combinations, or of as many as the budget allows.

    Those are drawn at random without repetition, each value of a setting about as often as its others:
    ten draws of independent ones leave out the best of four learning rates in one method of eighteen.

    Args:
        axes: Settings of the method, with their values.
        budget: Largest number of combinations.
        seed: Seed of the draw.
    """

    def __init__(self, axes: Sequence[Axis], budget: int, seed: int) -> None:
        self._axes = axes
        positions = [range(len(axis.values)) for axis in axes]
        self._chosen = (
            list(itertools.product(*positions))
            if number_of_settings(axes) <= budget
            else _balanced(list(map(len, positions)), budget, random.Random(seed))
        )

    def rounds(self) -> Iterator[Sequence[Settings]]:
        """Yield all of them at once."""
        yield [
            {axis.option: axis.values[i] for axis, i in zip(self._axes, chosen, strict=True)}
            for chosen in self._chosen
        ]

    def learn(self, scores: Sequence[float | None]) -> None:
        """Do nothing: the choice depends on no score."""


def _balanced(sizes: Sequence[int], count: int, chance: random.Random) -> list[tuple[int, ...]]:
    """Draw distinct combinations of positions, of each axis those that were drawn least often so far.

    Args:
        sizes: Number of positions of each axis.
        count: Number of combinations, fewer than there are.
        chance: Generator to draw from.

    Returns:
        The combinations in ascending order.
    """
    used = [[0] * size for size in sizes]
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < count:
        candidates = (tuple(_least_used(each, chance) for each in used) for _ in range(ATTEMPTS))
        latest = next((each for each in candidates if each not in drawn), None)
        while latest is None or latest in drawn:  # no other one of the least used positions is left
            latest = tuple(map(chance.randrange, sizes))
        drawn.add(latest)
        for counts, position in zip(used, latest, strict=True):
            counts[position] += 1
    return sorted(drawn)


def _least_used(counts: Sequence[int], chance: random.Random) -> int:
    least = min(counts)
    return chance.choice([position for position, each in enumerate(counts) if each == least])


class OptunaSearch:
    """Search by Optuna's tree-structured Parzen estimator, over the values of a grid, in rounds.

    Values that are numbers in order are neighbours to it; others are categories. A setting that it proposes
    again is not tried again: it is told the score, and proposes another. One that diverged has the lowest
    score. The same command proposes the same settings again, so that a search that was stopped continues.

    Args:
        axes: Settings of the method, with their values.
        budget: Largest number of settings.
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
        # by position: a value may be a tuple, which Optuna cannot save
        self._distributions = {
            axis.option: optuna.distributions.IntDistribution(0, len(axis.values) - 1)
            if _is_ordered(axis.values)
            else optuna.distributions.CategoricalDistribution(tuple(range(len(axis.values))))
            for axis in axes
        }
        self._grid = GridSearch(axes, number_of_settings(axes), seed)
        self._values = {axis.option: axis.values for axis in axes}
        self._budget = min(budget, number_of_settings(axes))
        self._random = random.Random(seed)
        self._scores: dict[str, float] = {}
        self._asked: list[tuple[Any, str]] = []

    def rounds(self) -> Iterator[Sequence[Settings]]:
        """Yield up to `ROUND` settings at a time, none of them twice."""
        tried: set[str] = set()
        while len(tried) < self._budget:
            self._asked = []
            fresh: list[Settings] = []
            for _ in range(min(ROUND, self._budget - len(tried))):
                trial, settings = self._proposal(tried)
                name = settings_name(settings)
                tried.add(name)
                self._asked.append((trial, name))
                fresh.append(settings)
            yield fresh

    def _proposal(self, tried: set[str]) -> tuple[Any, Settings]:
        """Return a trial whose settings were not tried; after some that were, one is drawn."""
        for _ in range(ROUND):
            trial = self._study.ask(self._distributions)
            settings = self._settings_of(trial)
            name = settings_name(settings)
            if name not in tried:
                return trial, settings
            if name in self._scores:
                self._study.tell(trial, self._scores[name])
        (every,) = self._grid.rounds()
        drawn = self._random.choice([each for each in every if settings_name(each) not in tried])
        self._study.enqueue_trial(
            {option: self._values[option].index(value) for option, value in drawn.items()}
        )
        trial = self._study.ask(self._distributions)
        return trial, self._settings_of(trial)

    def _settings_of(self, trial: Any) -> Settings:
        return {option: values[trial.params[option]] for option, values in self._values.items()}

    def learn(self, scores: Sequence[float | None]) -> None:
        """Report the scores of the latest round."""
        for (trial, name), score in zip(self._asked, scores, strict=True):
            self._scores[name] = -math.inf if score is None else score
            self._study.tell(trial, self._scores[name])


def _is_ordered(values: Sequence[object]) -> bool:
    """Return whether values are numbers in ascending or descending order."""
    numbers = [
        each for each in values if isinstance(each, int | float) and not isinstance(each, bool)
    ]
    return len(numbers) == len(values) and numbers in (
        sorted(numbers),
        sorted(numbers, reverse=True),
    )


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
