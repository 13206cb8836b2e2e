"""Gymnasium's environments: sizes and time limits as registered, and packages that are missing."""

import sys

import gymnasium
import pytest

from plasticity.tasks.control.dynamics import DYNAMICS

IDS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "mountaincar": "MountainCar-v0",
    "lunarlander": "LunarLander-v3",
}


@pytest.mark.parametrize("name", DYNAMICS)
def test_the_table_agrees_with_gymnasium(name):
    if name == "lunarlander":
        for package in ("Box2D", "pygame"):
            pytest.importorskip(package, reason="needs Box2D: pip install 'plasticity[box2d]'")
    dynamics, spec = DYNAMICS[name], gymnasium.spec(IDS[name])
    env = dynamics.env(render_mode=None)
    assert env.observation_space.shape == (dynamics.observation_size,)
    assert spec.max_episode_steps == dynamics.max_episode_steps
    assert type(env) is type(gymnasium.make(IDS[name]).unwrapped)
    assert set(dynamics.stock) == set(dynamics.ranges)
    env.close()


@pytest.mark.parametrize("package", ["Box2D", "pygame"])
def test_without_a_package_of_the_lander_the_remedy_is_given(monkeypatch, package):
    for name in ("Box2D", "pygame"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"LunarLander needs {package}.*\[box2d\]"):
        DYNAMICS["lunarlander"].env()
