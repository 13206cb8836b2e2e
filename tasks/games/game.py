"""Base of environments of games that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from plasticity.checks import require_number
from plasticity.tasks.games.screens import ScreenEnv
from plasticity.tasks.games.sequence import GameSchedule, GameTask, checked_games


class GameEnv(ScreenEnv[GameTask]):
    """Game that another follows at the first reset after an interval; a subclass plays them.

    All games have the same actions and the same shape of observations.

    Args:
        games: Names of games, in turn and again from the first.
        game: Game that stays. None, without a stream: the first one.
        task_seed: Seed of the stream, 0 or more; the order of the games does not depend on it.
        num_tasks: Length of the stream, whose last game stays. None: the sequence begins anew after its end.
        change_every: Steps of this environment from one game to the next; the change comes at the first reset
            after that.
        max_episode_steps: Steps after which an episode is truncated, at least 1.
        sticky_actions: Probability that an action is replaced by the one before it, from 0 to below 1.
        render_mode: None.

    Raises:
        ModuleNotFoundError: if the package of the games is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a game and a stream are given.
    """

    known_games: ClassVar[tuple[str, ...]]
    """Names of the games."""

    kept = (*ScreenEnv.kept, "sticky_actions")

    def __init__(
        self,
        games: Sequence[str],
        game: str | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        max_episode_steps: int,
        sticky_actions: float,
        render_mode: str | None = None,
    ) -> None:
        names = checked_games(games, self.known_games)
        if all(each is None for each in (game, task_seed, num_tasks, change_every)):
            game = names[0]
        if game is not None:
            checked_games([game], self.known_games)
        schedule = GameSchedule(
            games=names,
            task=None if game is None else GameTask(0, game),
            task_seed=task_seed,
            num_tasks=num_tasks,
            change_every=change_every,
        )
        self.sticky_actions = require_number(
            "sticky_actions", sticky_actions, minimum=0.0, below=1.0
        )
        super().__init__(schedule, max_episode_steps=max_episode_steps, render_mode=render_mode)
