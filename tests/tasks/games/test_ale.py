"""Atari games: parity with ale-py frame by frame, screens, states, checkers, and what is missing."""

import importlib.util
import pickle

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.tasks.games.ale import GAMES, SEQUENCE, ALEConfig, ALEEnv, area_weights

needs_ale = pytest.mark.skipif(
    importlib.util.find_spec("ale_py") is None, reason="needs the extra ale"
)


def smaller(frame, side=84):
    """Return an image whose pixels are means over a fine grid that both sizes divide."""
    height, width = frame.shape
    rows = frame.repeat(side, axis=0).reshape(side, height, width).mean(1)
    return rows.repeat(side, axis=1).reshape(side, side, width).mean(2)


@pytest.mark.parametrize("size", [210, 160, 84, 250])
def test_the_weights_of_areas(size):
    frame = np.random.default_rng(0).uniform(0, 255, (size, size))
    weights = area_weights(size, 84)
    np.testing.assert_allclose(weights @ frame @ weights.T, smaller(frame), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


@needs_ale
@pytest.mark.parametrize("frame_skip", [1, 4])
def test_a_game_is_the_packages_own(frame_skip):
    from ale_py.env import AtariEnv

    env = ALEEnv(game="space_invaders", frame_skip=frame_skip)
    observation, info = env.reset(seed=5)
    assert info == {"task": 0, "game": "space_invaders"}
    theirs = AtariEnv("space_invaders", obs_type="grayscale", frameskip=1, full_action_space=True)
    # The emulator is seeded by the first number of the environment's generator.
    theirs.ale.setInt("random_seed", int(np.random.Generator(np.random.PCG64(5)).integers(2**31)))
    theirs.load_game()
    screens = [smaller(theirs._get_obs())] * 4
    for action in np.random.default_rng(0).integers(18, size=60).tolist():
        np.testing.assert_allclose(observation, screens[-4:], atol=0.501)
        frames, points = [], 0.0
        for _ in range(frame_skip):
            frame, reward, *_ = theirs.step(action)
            frames.append(frame)
            points += reward
        screens.append(smaller(np.max(frames[-2:], axis=0)))
        observation, found, terminated, truncated, _ = env.step(action)
        assert (found, terminated, truncated) == (points, False, False)
    assert theirs.ale.getEpisodeFrameNumber() == 60 * frame_skip


@needs_ale
def test_all_games_are_there_and_have_all_actions():
    from ale_py import roms

    assert set(GAMES) <= set(roms.get_all_rom_ids())
    env = ALEEnv(game="freeway")  # which has three actions of its own
    env.reset(seed=0)
    assert len(env._buttons) == env.action_space.n == 18


@needs_ale
def test_gymnasiums_checker():
    check_env(ALEEnv(), skip_render_check=True)


@needs_ale
def test_a_pickled_copy_continues_exactly_over_a_change():
    env = ALEEnv(task_seed=0, change_every=30, max_episode_steps=40)
    env.reset(seed=0)
    actions = np.random.default_rng(1).integers(18, size=120).tolist()
    for action in actions[:25]:
        env.step(action)
    copy, games = pickle.loads(pickle.dumps(env)), set()
    for action in actions:
        expected, found = env.step(action), copy.step(action)
        np.testing.assert_array_equal(expected[0], found[0])
        assert expected[1:] == found[1:]
        games.add(found[4]["game"])
        if found[2] or found[3]:
            np.testing.assert_array_equal(env.reset()[0], copy.reset()[0])
    # Episodes begin at 0, 40, 80 and 120 steps, of which 145 are made: 0, 40, 80 and 120 // 30.
    assert games == {SEQUENCE[index] for index in (0, 1, 2, 4)}


@needs_ale
def test_a_game_that_is_lost_terminates():
    env = ALEEnv(game="pong", sticky_actions=0.0)
    env.reset(seed=0)
    lost, steps, over = 0.0, 0, False
    while not over and steps < 2000:
        _, reward, over, truncated, _ = env.step(0)
        lost, steps = lost + reward, steps + 1
    assert (over, truncated, lost) == (True, False, -21.0)  # who never moves loses 21 points


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"needs ale_py.*'plasticity\[ale\]'"):
        ALEEnv()


def test_the_settings():
    config = ALEConfig(num_steps=100, change_every=40, num_envs=4, games=("pong", "qbert"))
    assert config.make_stream(3, 0).describe(1) == {"game": "qbert"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"games": ("pogn",)}, "Did you mean 'pong'"),
        ({"frame_skip": 0}, "frame_skip"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"sticky_actions": 1.0}, "sticky_actions"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ALEConfig(**{"num_steps": 100, "change_every": 40, "num_envs": 4, **settings})
