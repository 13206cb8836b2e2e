"""A game of Procgen whose levels change, on screens of 64 x 64 pixels in color."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_integer, require_known, require_name
from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.games.levels import (
    LevelSchedule,
    LevelSets,
    LevelStream,
    LevelTask,
    parsed_levels,
)
from plasticity.tasks.games.screens import ScreenEnv

# fmt: off
GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)
# fmt: on
"""Names of the games, as in Procgen."""

Difficulty = Literal["easy", "hard"]
"""Kinds of levels that every game has."""

DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
"""Kinds of levels that every game has."""

NUM_ACTIONS = 15
"""Actions of every game: eight directions, nothing, and six buttons."""

SCREEN = (3, 64, 64)
"""Channels, height and width of a screen."""

_OWN_LIMITS = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}
# Steps at which Procgen ends an episode by itself, where they are not 1000.

_REMEDY = (
    "pip install -c constraints-procgen.txt 'plasticity[procgen]', in an environment of its own"
)


def checked_limit(game: str, difficulty: str, max_episode_steps: int | None) -> int:
    """Return the limit of steps of an episode; None stands for the longest.

    One step after the longest, Procgen ends an episode by itself and shows the first screen of another one,
    so that its last screen could not be bootstrapped from.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a name is unknown, or the limit is longer than the game's own.
    """
    for setting, name, known in (("game", game, GAMES), ("difficulty", difficulty, DIFFICULTIES)):
        require_name(setting, name)
        require_known(setting, name, known)
    longest = _OWN_LIMITS.get(game, 1000) - 1
    if max_episode_steps is None:
        return longest
    limit = require_integer("max_episode_steps", max_episode_steps, minimum=1)
    if limit > longest:
        raise ValueError(
            f"max_episode_steps must be at most {longest} in {game}, as Procgen ends an episode by itself at"
            f" {longest + 1} steps, without its last screen: {limit}."
        )
    return limit


@dataclass(frozen=True, kw_only=True)
class ProcgenConfig(EnvironmentConfig):
    """Settings of a game of Procgen whose levels change (Cobbe et al., 2020).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, the game is unknown, or the environments cannot share the
            interval evenly.
    """

    game: str = "starpilot"
    """Name of the game: bigfish, bossfight, caveflyer, chaser, climber, coinrun, dodgeball, fruitbot, heist,
    jumper, leaper, maze, miner, ninja, plunder, starpilot."""

    difficulty: Difficulty = "hard"
    """Kind of the levels, easy or hard: how large, full and fast they are."""

    levels_per_task: int = 1
    """Number of levels of a task, at least 1, of which every episode draws one. Tasks share none."""

    start_level: int | None = None
    """First level of the first task; each task begins where the one before it ends. None: drawn from the
    run's seed, below a billion."""

    max_episode_steps: int | None = None
    """Steps after which an episode is cut off, without counting as lost. None: one less than those at which
    the game would end it by itself; 999 in most games, 499 in leaper and maze, 3999 in bossfight and plunder,
    5999 in bigfish."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_limit(self.game, self.difficulty, self.max_episode_steps)
        LevelSets(start_level=self.start_level, levels_per_task=self.levels_per_task)

    def make_stream(self, num_tasks: int, seed: int) -> LevelStream:
        """Return the stream of levels."""
        sets = LevelSets(start_level=self.start_level, levels_per_task=self.levels_per_task)
        return LevelStream(num_tasks, seed, sets)

    def make_env(self, values: Mapping[str, Any] | None = None, **arguments: Any) -> ProcgenEnv:
        """Make one environment."""
        return ProcgenEnv(
            self.game,
            difficulty=self.difficulty,
            levels_per_task=self.levels_per_task,
            start_level=self.start_level,
            max_episode_steps=self.max_episode_steps,
            **{**(values or {}), **arguments},
        )


class ProcgenEnv(ScreenEnv[LevelTask]):
    """Game of Procgen whose levels change at the first reset after an interval.

    Observations are the game's screen, uint8, of shape (3, 64, 64): red, green, blue. An episode plays one
    level, drawn from those of the task, and depends on nothing but it and the actions. Rewards are the game's
    points. When the game is over, the observation is the last screen before: Procgen shows no other.

    Args:
        game: Name of the game.
        levels: Levels that stay: "23", or "400-449". None, without a stream: those of task 0 of seed 0.
        difficulty: Kind of the levels, easy or hard.
        levels_per_task: Number of levels of a task.
        start_level: First level of the first task. None: drawn from the seed.
        max_episode_steps: Steps after which an episode is truncated. None: one less than those at which the
            game would end it by itself.
        task_seed: Seed of the stream, 0 or more.
        num_tasks: Length of the stream, whose last levels stay. None: the stream is endless.
        change_every: Steps of this environment from one task to the next; the change comes at the first reset
            after that.
        render_mode: None.

    Raises:
        ModuleNotFoundError: if Procgen is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both levels and a stream are given.
    """

    kept = (*ScreenEnv.kept, "game", "difficulty")
    step_seconds = 1 / 15

    def __init__(
        self,
        game: str = "starpilot",
        levels: str | None = None,
        *,
        difficulty: Difficulty = "hard",
        levels_per_task: int = 1,
        start_level: int | None = None,
        max_episode_steps: int | None = None,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        limit = checked_limit(game, difficulty, max_episode_steps)
        self.game, self.difficulty = game, difficulty
        sets = LevelSets(start_level=start_level, levels_per_task=levels_per_task)
        task = None if levels is None else parsed_levels(levels)
        if all(each is None for each in (levels, task_seed, num_tasks, change_every)):
            task = sets.make_task(0, 0)
        schedule = LevelSchedule(
            sets=sets,
            task=task,
            task_seed=task_seed,
            num_tasks=num_tasks,
            change_every=change_every,
        )
        super().__init__(schedule, max_episode_steps=limit, render_mode=render_mode)

    def _open(self) -> None:
        self._procgen = _package()
        self._played: Any = None
        self.observation_space = gymnasium.spaces.Box(0, 255, SCREEN, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def _begin(self, task: LevelTask) -> Observation:
        self._free()
        # A game of its own for every episode, as one that goes on draws its next level by itself.
        self._played = self._procgen.ProcgenGym3Env(
            num=1,
            env_name=self.game,
            distribution_mode=self.difficulty,
            start_level=task.first + int(self.np_random.integers(task.count)),
            num_levels=1,
            rand_seed=0,
            num_threads=0,
        )
        self._screen = self._seen()[0]
        return self._screen

    def _play(self, action: int) -> tuple[Observation, float, bool]:
        self._played.act(np.array([action]))
        screen, reward, over = self._seen()
        if not over:
            self._screen = screen
        return self._screen, reward, over

    def _seen(self) -> tuple[NDArray[np.uint8], float, bool]:
        """Return the screen, the latest reward, and whether the screen is the first one of an episode."""
        rewards, observations, first = self._played.observe()
        screen = np.ascontiguousarray(observations["rgb"][0].transpose(2, 0, 1))
        return screen, float(rewards[0]), bool(first[0])

    def _free(self) -> None:
        if self._played is not None:
            self._played.close()
            self._played = None


def _package() -> ModuleType:
    """Return Procgen's module of environments.

    Raises:
        ModuleNotFoundError: if Procgen, or what it needs, is not installed; the message says how to.
    """
    try:
        return _module()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"A game of Procgen needs {error.name}, which is not installed: {_REMEDY}.",
            name=error.name,
        ) from error


def _module() -> ModuleType:
    """Import Procgen's environments without the package, whose import needs gym.

    They also add a folder of their author's to the paths of imports, which is taken away again.
    """
    found = importlib.util.find_spec("procgen")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(name="procgen")
    package = ModuleType("procgen_without_gym")
    package.__path__ = [str(Path(found.origin).parent)]
    sys.modules[package.__name__] = package
    paths = [*sys.path]
    try:
        return importlib.import_module(f"{package.__name__}.env")
    finally:
        sys.path[:] = paths
