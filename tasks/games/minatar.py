"""Games of MinAtar, one after another, on planes of 10 x 10."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from plasticity.checks import require_integer, require_number
from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.games.game import GameEnv
from plasticity.tasks.games.sequence import GameStream, GameTask, checked_games

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
"""Names of the games, as in MinAtar."""

SEQUENCE = ("space_invaders", "asterix", "seaquest")
"""Order of the games in C-CHAIN (Tang et al., 2025)."""

NUM_ACTIONS = 6
"""Actions of every game: nothing, left, up, right, down, fire. Those that a game lacks do nothing in it."""

NUM_PLANES = 10
"""Planes of an observation: those of Seaquest, which has the most. Others leave the last ones 0."""

_REMEDY = "pip install -c constraints.txt 'plasticity[minatar]'"


@dataclass(frozen=True, kw_only=True)
class MinAtarConfig(EnvironmentConfig):
    """Settings of games of MinAtar that follow each other (Young & Tian, 2019).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a game is unknown, or the environments cannot share the
            interval evenly.
    """

    games: tuple[str, ...] = SEQUENCE
    """Games in turn: asterix, breakout, freeway, seaquest, space_invaders. After the last one, the sequence
    begins anew."""

    max_episode_steps: int = 1000
    """Steps after which an episode is cut off, without counting as lost."""

    sticky_actions: float = 0.1
    """Probability that an action is replaced by the one before it; 0.1 is MinAtar's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_games(self.games, GAMES)
        require_integer("max_episode_steps", self.max_episode_steps, minimum=1)
        require_number("sticky_actions", self.sticky_actions, minimum=0.0, below=1.0)

    def make_stream(self, num_tasks: int, seed: int) -> GameStream:
        """Return the stream of games."""
        return GameStream(num_tasks, seed, self.games)

    def make_env(self, values: Mapping[str, Any] | None = None, **arguments: Any) -> MinAtarEnv:
        """Make one environment."""
        return MinAtarEnv(
            self.games,
            max_episode_steps=self.max_episode_steps,
            sticky_actions=self.sticky_actions,
            **{**(values or {}), **arguments},
        )


class MinAtarEnv(GameEnv):
    """Games of MinAtar in turn; the arguments are those of a `GameEnv`, with MinAtar's own defaults.

    Observations are planes of 0 and 1, uint8, of shape (10, 10, 10): the planes first. Games become harder
    with time, as in MinAtar. Its package is asked for the rules of the games alone: neither its window nor
    matplotlib and seaborn are loaded.
    """

    known_games = GAMES
    step_seconds = 1 / 30

    def __init__(
        self,
        games: Sequence[str] = SEQUENCE,
        game: str | None = None,
        *,
        max_episode_steps: int = 1000,
        sticky_actions: float = 0.1,
        **arguments: Any,
    ) -> None:
        super().__init__(
            games,
            game,
            max_episode_steps=max_episode_steps,
            sticky_actions=sticky_actions,
            **arguments,
        )

    def _open(self) -> None:
        self._rules = {name: _rules(name) for name in GAMES}
        self.observation_space = gymnasium.spaces.Box(0, 1, (NUM_PLANES, 10, 10), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def _begin(self, task: GameTask) -> Observation:
        # MinAtar draws from numpy's legacy generator, whose seeds have 32 bits.
        self._random = np.random.RandomState(int(self.np_random.integers(2**32)))
        self._game: Any = self._rules[task.game].Env(ramping=True)
        self._game.random = self._random
        self._game.reset()  # the constructor's own reset had another generator
        self._last_action = 0
        return self._planes()

    def _play(self, action: int) -> tuple[Observation, float, bool]:
        if self._random.rand() < self.sticky_actions:
            action = self._last_action
        self._last_action = action
        reward, terminal = self._game.act(action)
        return self._planes(), float(reward), bool(terminal)

    def _planes(self) -> Observation:
        state = self._game.state()
        planes = np.zeros((NUM_PLANES, *state.shape[:2]), np.uint8)
        planes[: state.shape[2]] = np.moveaxis(state, -1, 0)
        return planes

    def _free(self) -> None:
        self._rules.clear()


def _rules(game: str) -> ModuleType:
    """Import the module of a game by its file: the package itself imports matplotlib and seaborn.

    Raises:
        ModuleNotFoundError: if MinAtar is not installed; the message says how to install it.
    """
    package = importlib.util.find_spec("minatar")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            f"A game of MinAtar needs minatar, which is not installed: {_REMEDY}.", name="minatar"
        )
    file = Path(package.origin).parent / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"minatar.environments.{game}", file)
    assert spec is not None  # by the ending of the file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
