import importlib.util
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from plasticity.scripts.bench import ant as bench_ant
from plasticity.scripts.bench.ant import (
    OURS,
    BulletAlone,
    ant_environment,
    ant_vector,
    play,
    random_actions,
    step_all,
)
from plasticity.scripts.bench.comparison import Effort

QUICK = Effort(quick=True)

needs_bullet = pytest.mark.skipif(
    importlib.util.find_spec("pybullet") is None, reason="needs PyBullet"
)
needs_reference = pytest.mark.skipif(
    importlib.util.find_spec("pybullet_envs_gymnasium") is None,
    reason="needs pybullet_envs_gymnasium",
)


def without(package):
    return lambda _, requirement: requirement == package


# ---- playing ----------------------------------------------------------------------------------------


def test_actions_are_those_of_a_standard_normal_policy_clipped():
    actions = random_actions(1000, 3)
    assert actions.shape == (1000, 3, 8)
    assert actions.dtype == np.float32
    assert np.array_equal(actions, random_actions(1000, 3))
    # A normal is beyond one standard deviation with probability 0.3173; 24 000 draws give it to 0.003.
    assert np.mean(np.abs(actions) == 1.0) == pytest.approx(0.3173, abs=0.012)
    assert np.abs(actions).max() == 1.0


def test_playing_resets_after_each_end():
    log = []

    class Scripted:
        def reset(self, *, seed=None):
            log.append(("reset", seed))

        def step(self, action):
            log.append(action)
            return None, 0.0, action == 1, action == 3, {}

    assert play(Scripted(), [0, 1, 2, 3, 4]) == [1, 3]
    assert log == [("reset", 0), 0, 1, ("reset", None), 2, 3, ("reset", None), 4]


def test_a_vector_environment_is_stepped_with_all_actions_in_turn():
    stepped = []
    step_all(SimpleNamespace(step=stepped.append), random_actions(3, 2))
    assert np.array_equal(stepped, random_actions(3, 2))


@needs_bullet
def test_bullet_alone_makes_the_same_motion():
    actions = random_actions(50)
    env = gymnasium.make(OURS, max_episode_steps=20)
    ends = play(env, actions)
    assert ends == [19, 39]
    bullet = BulletAlone(actions, ends)
    for _ in range(2):  # a turn does not depend on the one before
        bullet.play()
        assert bullet.ant.torso() == env.unwrapped._ant.torso()
    env.close()
    bullet.close()


# ---- rows -------------------------------------------------------------------------------------------


@needs_reference
def test_rows_of_the_environment():
    reference, limit = ant_environment(QUICK)
    assert "AntBulletEnv-v0" in reference.case
    assert (reference.goal, reference.bound, reference.unit) == (2.0, "at least", "speed")
    assert "Bullet's own step" in limit.case
    assert limit.goal is None
    for row in (reference, limit):
        # Two rounds: the middle of two ratios, each a quarter of their distance from the ends.
        assert row.value == pytest.approx((row.lower + row.upper) / 2)
        assert row.note.endswith("steps/s")
        assert row.ours > 0
        assert row.theirs > 0
    assert limit.ours == reference.ours


@needs_bullet
def test_without_the_reference_its_row_says_so(monkeypatch):
    monkeypatch.setattr(Effort, "lacks", without("pybullet_envs_gymnasium"))
    reference, limit = ant_environment(QUICK)
    assert (reference.value, reference.met, reference.goal) == (None, None, 2.0)
    assert "pip install pybullet_envs_gymnasium" in reference.note
    assert limit.value > 0


@pytest.mark.parametrize("measurement", [ant_environment, ant_vector])
def test_without_bullet_nothing_is_measured(measurement, monkeypatch):
    monkeypatch.setattr(Effort, "lacks", without("pybullet"))
    (row,) = measurement(QUICK)
    assert row.value is None
    assert "plasticity[bullet]" in row.note


@needs_bullet
def test_rows_of_the_vector_environments(monkeypatch):
    """All of them take a turn; their times are made up."""
    seconds = {
        "ours, 2 processes": 1.0,
        "ours, in one process": 0.5,
        "Gymnasium Sync": 2.0,
        "Gymnasium Async": 4.0,
        "SB3 Dummy": 1.25,
        "SB3 Subproc": 1.5,
    }

    def fake(_, contenders, *, rounds, **__):
        for turn in contenders.values():
            turn()
        return {label: (seconds[label],) * rounds for label in contenders}

    monkeypatch.setattr(Effort, "in_turns", fake)
    monkeypatch.setattr(bench_ant, "goal_on_cores", lambda goal: {"goal": goal, "note": ""})
    rows = ant_vector(QUICK)
    assert [row.value for row in rows] == pytest.approx([0.5, 2.0, 4.0, 1.25, 1.5])
    # Only the fastest alternative has a goal: neither ours nor the slower ones.
    assert [row.goal for row in rows] == [None, None, None, 1.1, None]
    assert "the fastest alternative" in rows[3].note
    # 5 steps of 2 ants in 1 s, and in 1.25 s
    assert rows[3].note.endswith("10 / 8 steps/s")
