"""Procgen: parity with its package step by step, levels, states, checkers, and what is missing."""

import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity.tasks.games.procgen import GAMES, ProcgenConfig, ProcgenEnv, checked_limit

needs_procgen = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="needs the extra procgen"
)


def theirs(game, level, difficulty):
    package = ProcgenEnv()._procgen
    return package.ProcgenGym3Env(
        num=1,
        env_name=game,
        distribution_mode=difficulty,
        start_level=level,
        num_levels=1,
        rand_seed=99,
        num_threads=0,
    )


@needs_procgen
@pytest.mark.parametrize("game", GAMES)
def test_every_game_is_the_packages_own(game):
    env, package = ProcgenEnv(game, "123", difficulty="easy"), theirs(game, 123, "easy")
    observation, info = env.reset(seed=0)
    assert info == {"task": 0, "levels": "123"}
    for action in np.random.default_rng(0).integers(15, size=150).tolist():
        _, screens, _ = package.observe()
        np.testing.assert_array_equal(observation, np.moveaxis(screens["rgb"][0], -1, 0))
        package.act(np.array([action]))
        rewards, _, first = package.observe()
        last = observation
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated, truncated) == (rewards[0], first[0], False)
        if terminated:
            np.testing.assert_array_equal(observation, last)  # theirs is another episode's already
            break
    package.close()


@needs_procgen
def test_an_episode_has_a_level_of_its_task():
    env = ProcgenEnv("maze", "40-42")
    mazes = {level: ProcgenEnv("maze", level).reset()[0].tobytes() for level in ("40", "41", "42")}
    seen = {env.reset(seed=seed)[0].tobytes() for seed in range(20)}
    assert seen == set(mazes.values())
    assert len(seen) == 3


@needs_procgen
@pytest.mark.parametrize(("game", "limit"), [("maze", 499), ("coinrun", 999)])
def test_an_episode_is_truncated_before_procgen_ends_it(game, limit):
    env, package = ProcgenEnv(game, "5"), theirs(game, 5, "hard")
    env.reset(seed=0)
    for step in range(1, limit + 1):
        *_, terminated, truncated, _ = env.step(4)  # to do nothing
        assert (terminated, truncated) == (False, step == limit)
        package.act(np.array([4]))
        assert not package.observe()[2][0]
    package.act(np.array([4]))
    assert package.observe()[2][0]  # one step later


@needs_procgen
def test_gymnasiums_checker():
    check_env(ProcgenEnv(), skip_render_check=True)


@needs_procgen
def test_a_pickled_copy_continues_exactly_over_a_change():
    env = ProcgenEnv("fruitbot", difficulty="easy", levels_per_task=3, task_seed=0, change_every=60)
    env.reset(seed=0)
    actions = np.random.default_rng(1).integers(15, size=200).tolist()
    for action in actions[:25]:
        env.step(action)
    copy, levels = pickle.loads(pickle.dumps(env)), set()
    for action in actions:
        expected, found = env.step(action), copy.step(action)
        np.testing.assert_array_equal(expected[0], found[0])
        assert expected[1:] == found[1:]
        levels.add(found[4]["levels"])
        if found[2] or found[3]:
            np.testing.assert_array_equal(env.reset()[0], copy.reset()[0])
    assert len(levels) > 1


@needs_procgen
def test_a_state_of_other_levels_is_refused():
    env = ProcgenEnv(start_level=20, task_seed=0, change_every=5)
    env.reset(seed=3)
    with pytest.raises(ValueError, match=r"saved at task 0 with levels 20, but .* levels 30"):
        ProcgenEnv(start_level=30, task_seed=0, change_every=5).load_state_dict(env.state_dict())


@needs_procgen
def test_neither_gym_nor_a_foreign_path_is_imported():
    program = (
        "import sys; paths = [*sys.path];"
        "from plasticity.tasks.games.procgen import ProcgenEnv; ProcgenEnv();"
        "assert 'gym' not in sys.modules; assert sys.path == paths"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"needs procgen.*constraints-procgen\.txt 'plasticity\[procgen\]'",
    ):
        ProcgenEnv()


def test_a_missing_package_of_the_packages_is_named(monkeypatch, tmp_path):
    (tmp_path / "procgen").mkdir()
    (tmp_path / "procgen" / "__init__.py").write_text("raise AssertionError")
    (tmp_path / "procgen" / "env.py").write_text("import gym3_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("procgen", "procgen_without_gym", "procgen_without_gym.env"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs gym3_that_is_missing.*plasticity\[procgen"
    ):
        ProcgenEnv()


def test_the_settings():
    config = ProcgenConfig(
        num_steps=100, change_every=40, num_envs=4, start_level=7, levels_per_task=2
    )
    assert config.make_stream(3, 0).describe(2) == {"levels": "11-12"}
    assert config.described == ("levels",)


@pytest.mark.parametrize(
    ("game", "limit"), [("coinrun", 999), ("leaper", 499), ("bossfight", 3999), ("bigfish", 5999)]
)
def test_the_longest_episodes(game, limit):
    assert checked_limit(game, "hard", None) == checked_limit(game, "easy", limit) == limit
    with pytest.raises(ValueError, match=f"at most {limit} in {game}"):
        ProcgenConfig(num_steps=8, change_every=8, game=game, max_episode_steps=limit + 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"game": "starpilots"}, ValueError, "Unknown game .* Did you mean 'starpilot'"),
        ({"game": ("maze",)}, TypeError, "game must be a name"),
        ({"difficulty": "extreme"}, ValueError, "Unknown difficulty 'extreme'"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps"),
        ({"levels_per_task": 0}, ValueError, "levels_per_task"),
        ({"start_level": -1}, ValueError, "start_level"),
        ({"change_every": 41}, ValueError, "multiple of num_envs"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ProcgenConfig(**{"num_steps": 100, "change_every": 40, "num_envs": 4, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": "3", "task_seed": 0}, "levels 3 is constant"),
        ({"change_every": 3}, "needs task_seed and change_every"),
        ({"render_mode": "human"}, "render_mode must be None"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProcgenEnv(**arguments)
