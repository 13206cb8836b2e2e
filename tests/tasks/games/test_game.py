"""What all games have in common, on a game of three lights that needs no package."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.tasks.games.game import GameEnv


class Lights(GameEnv):
    """Light that moves at random; the reward is 1 for naming its place, twice that in the second game."""

    known_games = ("one", "two")
    step_seconds = 1.0

    def __init__(self, games=("one", "two"), game=None, **arguments):
        super().__init__(
            games, game, **{"max_episode_steps": 4, "sticky_actions": 0.0, **arguments}
        )

    def _open(self):
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, 1, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def _begin(self, task):
        self._draws = np.random.default_rng(int(self.np_random.integers(2**32)))
        self._reward = {"one": 1.0, "two": 2.0}[task.game]
        return self._draw()

    def _draw(self):
        self._place = int(self._draws.integers(3))
        return (255 * np.eye(3, dtype=np.uint8)[self._place]).reshape(1, 1, 3)

    def _play(self, action):
        reward = self._reward * (action == self._place)
        return self._draw(), float(reward), False

    def _free(self):
        pass


def test_gymnasiums_checker():
    check_env(Lights(), skip_render_check=True)


def test_the_game_changes_at_the_end_of_an_episode():
    env = Lights(task_seed=0, change_every=5)
    observation, info = env.reset(seed=0)
    seen = []
    for _ in range(16):
        observation, reward, terminated, truncated, info = env.step(int(observation.argmax()))
        seen.append((info["game"], reward))
        assert not terminated
        if truncated:
            observation, info = env.reset()
    # Episodes of 4 steps; changes are due at 5, 10 and 15 steps, and come at 8, 12 and 16.
    assert seen == [("one", 1.0)] * 8 + [("two", 2.0)] * 4 + [("one", 1.0)] * 4


def test_a_copy_and_a_state_continue_exactly():
    env = Lights(task_seed=0, change_every=5, max_episode_steps=9)
    env.reset(seed=3)
    for action in (0, 1, 2, 0, 1):
        env.step(action)
    other = Lights(task_seed=0, change_every=5, max_episode_steps=9)
    other.load_state_dict(env.state_dict())
    for each in (copy.deepcopy(env), other):
        assert each.max_episode_steps == 9
        reference = copy.deepcopy(env)
        for action in (2, 1, 0, 2):
            expected, found = reference.step(action), each.step(action)
            np.testing.assert_array_equal(expected[0], found[0])
            assert expected[1:] == found[1:]
        assert found[3]  # the ninth step, counted over the copy
        np.testing.assert_array_equal(reference.reset()[0], each.reset()[0])


def test_a_state_of_another_game_is_refused():
    env = Lights(task_seed=0, change_every=5)
    env.reset(seed=3)
    with pytest.raises(ValueError, match=r"saved at task 0 with game one, but .* game two"):
        Lights(("two", "one"), task_seed=0, change_every=5).load_state_dict(env.state_dict())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"game": "three"}, ValueError, "Unknown game 'three'"),
        ({"game": "one", "task_seed": 0}, ValueError, "game one is constant"),
        ({"sticky_actions": 1.0}, ValueError, "sticky_actions"),
        ({"change_every": 3}, ValueError, "needs task_seed and change_every"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Lights(**arguments)
