"""Games one after another: the order, the stream, and the schedule of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.checks import require_known, require_name
from plasticity.tasks.control.schedule import TaskSchedule
from plasticity.tasks.streams.base import Stream


@dataclass(frozen=True)
class GameTask:
    """Task of a sequence: a game."""

    index: int
    """Index in the stream, from 0."""

    game: str
    """Name of the game."""

    def values(self) -> dict[str, Any]:
        """Return the game by its name in a row."""
        return {"game": self.game}


def checked_games(games: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the games of a sequence.

    Args:
        games: Names of games, in turn.
        known: Names that there are.

    Raises:
        TypeError: if they are no list of names.
        ValueError: if there is none, or one is unknown; the message names the nearest.
    """
    if isinstance(games, str) or not isinstance(games, Sequence):
        raise TypeError(f"games must be names of games, such as ({known[0]!r},): {games!r}.")
    if not games:
        raise ValueError(f"games needs at least one game: ({known[0]!r},).")
    for name in games:
        require_name("a game", name)
        require_known("game", name, known)
    return tuple(games)


class GameStream(Stream[GameTask]):
    """Stream of games, in turn and again from the first; the seed changes nothing.

    Args:
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the run's stream, 0 or more.
        games: Names of the games, at least one.
    """

    def __init__(self, num_tasks: int, seed: int, games: Sequence[str]) -> None:
        super().__init__(num_tasks, seed)
        self._games = tuple(games)

    def make_task(self, index: int) -> GameTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return GameTask(index, self._games[index % len(self._games)])

    def describe(self, index: int) -> dict[str, Any]:
        """Return the game of a task, which a row of metrics tells besides its index."""
        return self[index].values()


@dataclass(frozen=True, kw_only=True)
class GameSchedule(TaskSchedule[GameTask]):
    """Schedule of games: one that stays, or several in turn."""

    games: tuple[str, ...]
    """Names of the games, at least one."""

    task: GameTask | None = None
    """Task that stays; None: the games follow each other."""

    @property
    def constant(self) -> GameTask | None:
        """Task that stays."""
        return self.task

    def make_task(self, seed: int, index: int) -> GameTask:
        """Return task `index` of the sequence."""
        return GameTask(index, self.games[index % len(self.games)])
