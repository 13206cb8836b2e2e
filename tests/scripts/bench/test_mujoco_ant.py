"""Rows of MuJoCo's ants, at sizes that measure nothing."""

import sys
import types

import numpy as np
import pytest

from plasticity.scripts.bench.comparison import Effort
from plasticity.scripts.bench.mujoco_ant import mujoco_vector

pytest.importorskip("mujoco")

QUICK = Effort(quick=True)


class FakePool:
    """EnvPool's interface: counts what it is asked to do."""

    made: list = []  # noqa: RUF012

    def __init__(self, name, *, env_type, num_envs, num_threads, seed):
        self.made.append((name, env_type, num_envs, num_threads))
        self.num_envs, self.stepped = num_envs, 0

    def reset(self):
        return None

    def step(self, actions):
        assert actions.shape == (self.num_envs, 8)
        assert actions.dtype == np.float64
        self.stepped += 1

    def close(self):
        assert self.stepped


def test_ours_is_measured_against_envpool_on_as_many_cores(monkeypatch):
    monkeypatch.setattr(FakePool, "made", [])
    monkeypatch.setitem(sys.modules, "envpool", types.SimpleNamespace(make=FakePool))
    monkeypatch.setattr(Effort, "lacks", lambda *_: False)
    rows = list(mujoco_vector(QUICK))
    assert FakePool.made == [("Ant-v5", "gymnasium", n, c) for n, c in ((1, 1), (8, 2), (8, 2))]
    assert [row.value > 0 for row in rows] == [True] * 4
    assert "the engine's own steps" in rows[-1].case


def test_without_envpool_only_the_engine_is_measured(monkeypatch):
    monkeypatch.setattr(Effort, "lacks", lambda _, each: each == "envpool")
    rows = list(mujoco_vector(QUICK))
    assert [row.value is None for row in rows] == [True, True, True, False]
    assert "pip install 'plasticity[bench]'" in rows[0].note
