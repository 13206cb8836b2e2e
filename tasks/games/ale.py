"""Games of the Arcade Learning Environment, one after another, on four grey screens of 84 x 84."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_integer, require_number
from plasticity.tasks.control.base import EnvironmentConfig
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.simulators import import_simulator
from plasticity.tasks.games.game import GameEnv
from plasticity.tasks.games.sequence import GameStream, GameTask, checked_games

# fmt: off
GAMES = (
    "amidar", "assault", "asterix", "bank_heist", "battle_zone", "beam_rider", "boxing",
    "breakout", "crazy_climber", "demon_attack", "double_dunk", "enduro", "freeway",
    "frostbite", "gopher", "gravitar", "hero", "jamesbond", "kangaroo", "krull",
    "kung_fu_master", "ms_pacman", "name_this_game", "phoenix", "pong", "private_eye", "qbert",
    "riverraid", "road_runner", "seaquest", "space_invaders", "star_gunner", "up_n_down",
    "video_pinball", "yars_revenge", "zaxxon",
)
# fmt: on
"""Names of games, as ale-py has them; those of published sequences and of the usual benchmarks."""

SEQUENCE = ("space_invaders", "krull", "beam_rider", "hero", "star_gunner", "ms_pacman")
"""Order of the games in CORA (Powers et al., 2022)."""

NUM_ACTIONS = 18
"""Actions of every game: all that a joystick has."""

NUM_SCREENS = 4
"""Latest screens that an observation has."""

SIDE = 84
"""Height and width of a screen."""

_REMEDY = "pip install -c constraints.txt 'plasticity[ale]'"


@dataclass(frozen=True, kw_only=True)
class ALEConfig(EnvironmentConfig):
    """Settings of Atari games that follow each other (Bellemare et al., 2013; Machado et al., 2018).

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, a game is unknown, or the environments cannot share the
            interval evenly.
    """

    games: tuple[str, ...] = SEQUENCE
    """Games in turn, by their names in ale-py: space_invaders, krull, … After the last one, the sequence
    begins anew."""

    frame_skip: int = 4
    """Frames of a step, at least 1, in all of which the action is held. The screen is the brighter of the
    last two, entry by entry, as some games draw their objects in turn."""

    max_episode_steps: int = 27_000
    """Steps after which an episode is cut off, without counting as lost: half an hour of play, by default.
    A run that is continued plays its last episodes again up to where they were, 1000 steps in a second."""

    sticky_actions: float = 0.25
    """Probability that, in a frame, an action is replaced by the one before it (Machado et al., 2018)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_games(self.games, GAMES)
        require_integer("frame_skip", self.frame_skip, minimum=1)
        require_integer("max_episode_steps", self.max_episode_steps, minimum=1)
        require_number("sticky_actions", self.sticky_actions, minimum=0.0, below=1.0)

    def make_stream(self, num_tasks: int, seed: int) -> GameStream:
        """Return the stream of games."""
        return GameStream(num_tasks, seed, self.games)

    def make_env(self, values: Mapping[str, Any] | None = None, **arguments: Any) -> ALEEnv:
        """Make one environment."""
        return ALEEnv(
            self.games,
            frame_skip=self.frame_skip,
            max_episode_steps=self.max_episode_steps,
            sticky_actions=self.sticky_actions,
            **{**(values or {}), **arguments},
        )


class ALEEnv(GameEnv):
    """Atari games in turn; the arguments are those of a `GameEnv`, and `frame_skip`, as in `ALEConfig`.

    Observations are the latest four grey screens, uint8, of shape (4, 84, 84), the newest last; an episode
    begins with four times its first. Rewards are the game's points. A lost life ends no episode.
    """

    known_games = GAMES
    kept = (*GameEnv.kept, "frame_skip")
    step_seconds = 1 / 15

    def __init__(
        self,
        games: Sequence[str] = SEQUENCE,
        game: str | None = None,
        *,
        frame_skip: int = 4,
        max_episode_steps: int = 27_000,
        sticky_actions: float = 0.25,
        **arguments: Any,
    ) -> None:
        self.frame_skip = require_integer("frame_skip", frame_skip, minimum=1)
        super().__init__(
            games,
            game,
            max_episode_steps=max_episode_steps,
            sticky_actions=sticky_actions,
            **arguments,
        )

    def _open(self) -> None:
        package = import_simulator("ale_py", "An Atari game", _REMEDY)
        self._roms = import_simulator("ale_py.roms", "An Atari game", _REMEDY)
        package.ALEInterface.setLoggerMode(package.LoggerMode.Error)
        self._console: Any = package.ALEInterface()
        self._console.setFloat("repeat_action_probability", self.sticky_actions)
        self._screens: deque[NDArray[np.uint8]] = deque(maxlen=NUM_SCREENS)
        self.observation_space = gymnasium.spaces.Box(0, 255, (NUM_SCREENS, SIDE, SIDE), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def _begin(self, task: GameTask) -> Observation:
        # The emulator draws anew from its seed when a game is loaded. Its seeds have 31 bits.
        self._console.setInt("random_seed", int(self.np_random.integers(2**31)))
        self._console.loadROM(self._roms.get_rom_path(task.game))
        self._buttons = self._console.getLegalActionSet()
        height, width = self._console.getScreenDims()
        self._frames = np.zeros((2, height, width), np.uint8)
        self._rows, self._columns = area_weights(height, SIDE), area_weights(width, SIDE).T
        self._console.getScreenGrayscale(self._frames[0])
        self._screens.extend([self._screen(self._frames[0])] * NUM_SCREENS)
        return np.stack(self._screens)

    def _play(self, action: int) -> tuple[Observation, float, bool]:
        reward, seen = 0.0, 0
        for frame in range(self.frame_skip):
            reward += self._console.act(self._buttons[action])
            over: bool = self._console.game_over(with_truncation=False)
            if over or frame >= self.frame_skip - 2:
                self._console.getScreenGrayscale(self._frames[seen])
                seen += 1
            if over:
                break
        self._screens.append(self._screen(self._frames[:seen].max(0)))
        return np.stack(self._screens), float(reward), over

    def _screen(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        sums: NDArray[np.float32] = self._rows @ frame.astype(np.float32) @ self._columns
        return np.rint(sums).astype(np.uint8)

    def _free(self) -> None:
        self._screens.clear()


def area_weights(size: int, smaller: int) -> NDArray[np.float32]:
    """Return the share that each of `size` pixels has in each of `smaller` ones, which cover the same length.

    Returns:
        Shape: (smaller, size). Each row sums to 1.
    """
    edges = np.arange(smaller + 1) * (size / smaller)
    pixels = np.arange(size)
    ends = np.minimum(edges[1:, None], pixels + 1)
    overlap: NDArray[np.float64] = (ends - np.maximum(edges[:-1, None], pixels)).clip(0)
    return (overlap * (smaller / size)).astype(np.float32)
