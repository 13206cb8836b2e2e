"""MinAtar: parity with its package step by step, the planes, states, checkers, and what is missing."""

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.tasks.games.minatar import GAMES, SEQUENCE, MinAtarConfig, MinAtarEnv

needs_minatar = pytest.mark.skipif(
    importlib.util.find_spec("minatar") is None, reason="needs the extra minatar"
)


def planes_of(state):
    padded = np.zeros((10, 10, 10), np.uint8)
    for plane in range(state.shape[-1]):
        padded[plane] = state[:, :, plane]
    return padded


@needs_minatar
@pytest.mark.filterwarnings("ignore")  # of matplotlib, which the package itself imports
@pytest.mark.parametrize("game", GAMES)
def test_every_game_is_the_packages_own(game):
    from minatar import Environment

    env = MinAtarEnv(game=game)
    observation, info = env.reset(seed=5)
    assert info == {"task": 0, "game": game}
    theirs = Environment(game)
    # The game's generator is seeded by the first number of the environment's.
    theirs.seed(int(np.random.Generator(np.random.PCG64(5)).integers(2**32)))
    theirs.reset()
    for action in np.random.default_rng(0).integers(6, size=300).tolist():
        np.testing.assert_array_equal(observation, planes_of(theirs.state()))
        reward, terminal = theirs.act(action)
        observation, found, terminated, truncated, _ = env.step(action)
        assert (found, terminated, truncated) == (reward, terminal, False)
        if terminal:
            break
    np.testing.assert_array_equal(observation, planes_of(theirs.state()))


@needs_minatar
@pytest.mark.parametrize("game", GAMES)
def test_gymnasiums_checker(game):
    check_env(MinAtarEnv(game=game), skip_render_check=True)


@needs_minatar
def test_a_pickled_copy_continues_exactly_over_a_change():
    env = MinAtarEnv(task_seed=0, change_every=30)
    env.reset(seed=0)
    actions = np.random.default_rng(1).integers(6, size=500).tolist()
    for action in actions[:100]:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    copy, games = pickle.loads(pickle.dumps(env)), set()
    for action in actions:
        expected, found = env.step(action), copy.step(action)
        np.testing.assert_array_equal(expected[0], found[0])
        assert expected[1:] == found[1:]
        games.add(found[4]["game"])
        if found[2] or found[3]:
            env.reset()
            copy.reset()
    assert games == set(SEQUENCE)


@needs_minatar
def test_an_episode_is_truncated_at_its_limit():
    env = MinAtarEnv(game="freeway", max_episode_steps=7)  # which ends after 2500 steps by itself
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


@needs_minatar
def test_neither_matplotlib_nor_seaborn_is_imported():
    program = (
        "import sys; from plasticity.tasks.games.minatar import MinAtarEnv; MinAtarEnv().reset();"
        "assert not {'matplotlib', 'seaborn', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs minatar.*'plasticity\[minatar\]'"):
        MinAtarEnv()


def test_the_settings():
    config = MinAtarConfig(num_steps=100, change_every=40, num_envs=4, games=("freeway",))
    assert config.make_stream(3, 0).describe(2) == {"game": "freeway"}
    assert config.described == ("game",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"games": ("pong",)}, "Unknown game 'pong'"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"sticky_actions": -0.1}, "sticky_actions"),
        ({"change_every": 41}, "multiple of num_envs"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MinAtarConfig(**{"num_steps": 100, "change_every": 40, "num_envs": 4, **settings})
