"""Environments that are seen as images, on one whose screen counts the actions and needs no package."""

import copy

import gymnasium
import numpy as np
import pytest

from plasticity.tasks.games.screens import ScreenEnv
from plasticity.tasks.games.sequence import GameSchedule, GameTask


class Counter(ScreenEnv[GameTask]):
    """Screen of one pixel: the sum of the actions since the beginning."""

    step_seconds = 1.0

    def __init__(self, limit=3, render_mode=None):
        schedule = GameSchedule(games=("counting",), task=GameTask(0, "counting"))
        super().__init__(schedule, max_episode_steps=limit, render_mode=render_mode)

    def _open(self):
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, 1, 1), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def _begin(self, task):
        self._sum = 0
        return self._screen()

    def _play(self, action):
        self._sum += action
        return self._screen(), float(action), False

    def _screen(self):
        return np.full((1, 1, 1), self._sum, np.uint8)

    def _free(self):
        pass


def test_a_copy_has_the_limit_and_the_screen():
    env = Counter(limit=5)
    env.reset(seed=0)
    for action in (2, 1, 2):
        env.step(action)
    other = copy.deepcopy(env)
    ends = [other.step(2)[:4] for _ in range(2)]
    # 2 + 1 + 2 = 5, then 7 and 9; the fifth step is the last
    assert [int(screen.sum()) for screen, *_ in ends] == [7, 9]
    assert [each[1:] for each in ends] == [(2.0, False, False), (2.0, False, True)]


def test_there_are_no_pictures():
    assert Counter().metadata["render_modes"] == []
    with pytest.raises(ValueError, match="render_mode must be None"):
        Counter(render_mode="rgb_array")


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (2.5, TypeError)])
def test_bad_limits(limit, error):
    with pytest.raises(error, match="max_episode_steps"):
        Counter(limit=limit)


@pytest.mark.parametrize(
    ("action", "error"), [(3, ValueError), (-1, ValueError), (0.5, TypeError), (None, TypeError)]
)
def test_bad_actions(action, error):
    env = Counter()
    env.reset(seed=0)
    with pytest.raises(error, match="from 0 to 2"):
        env.step(action)
