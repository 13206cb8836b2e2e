"""Base of environments of games: discrete actions, screens as observations, a limit of steps."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_integer, require_number
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.games.sequence import GameSchedule, GameTask, checked_games


class GameEnv(ReplayedEnv[GameTask]):
    """Game that another follows at the first reset after an interval; a subclass plays them.

    All games have the same actions and the same shape of observations, uint8 with the channels first, and the
    observation never tells the game by more than its picture. An episode that reaches `max_episode_steps` is
    truncated. There are no pictures beside the observations.

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

    kept: ClassVar[tuple[str, ...]] = ("max_episode_steps", "sticky_actions")
    """Attributes that a copy has from the beginning."""

    metadata = ReplayedEnv.metadata | {"render_modes": []}

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
        if render_mode is not None:
            raise ValueError(
                f"render_mode must be None, as the observations are pictures: {render_mode!r}."
            )
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
        self.max_episode_steps = require_integer("max_episode_steps", max_episode_steps, minimum=1)
        self.sticky_actions = require_number(
            "sticky_actions", sticky_actions, minimum=0.0, below=1.0
        )
        super().__init__(schedule)

    def _load(self) -> None:
        self.metadata = {**self.metadata, "render_modes": []}
        self._open()

    def _open(self) -> None:
        """Import the package of the games, and set the spaces of observations and actions."""
        raise NotImplementedError

    def _checked(self, action: Any) -> int:
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        try:
            number = operator.index(action)
        except TypeError as error:
            raise TypeError(
                f"The action must be an integer, not {action!r}: give one from 0 to {space.n - 1}."
            ) from error
        if not 0 <= number < space.n:
            raise ValueError(f"The action must be from 0 to {space.n - 1}: {number}.")
        return number

    def _update_window(self) -> None:
        """Do nothing: there is no window."""

    def _picture(self) -> NDArray[np.uint8]:
        raise NotImplementedError("There are no pictures beside the observations.")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        for name in self.kept:
            setattr(self, name, pickled[name])
        super().__setstate__(pickled)
