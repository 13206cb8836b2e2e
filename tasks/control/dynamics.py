"""Gymnasium's environments that change: how each is made, and the ranges of its physics."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv, PendulumEnv

from plasticity.tasks.control.simulators import import_simulator


def _keep_physics(env: Any, values: Mapping[str, float]) -> None:
    """Change nothing: there is nothing to change."""


@dataclass(frozen=True)
class Dynamics:
    """One of Gymnasium's environments, and the range of each quantity of its physics that changes."""

    env: Callable[..., gymnasium.Env[Any, Any]]
    """Constructor of Gymnasium's environment, without its time limit. It takes a render mode."""

    observation_size: int
    """Number of entries of an observation."""

    max_episode_steps: int
    """Time limit of the registered environment, in steps."""

    step_seconds: float
    """Simulated time of a step."""

    stock: Mapping[str, float] = field(default_factory=dict)
    """Gymnasium's own values, those of task 0. Empty: the physics do not change."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value of each quantity, from task 1 on, which is log-uniform between them."""

    set_physics: Callable[[Any, Mapping[str, float]], None] = _keep_physics
    """Function that gives an environment these values."""


def _set_cartpole(env: Any, values: Mapping[str, float]) -> None:
    env.gravity, env.length, env.force_mag = (
        values[name] for name in ("gravity", "half_length", "force")
    )
    # Gymnasium computes it once, in the constructor. (`length` is half the pole's length.)
    env.polemass_length = env.masspole * env.length


def _set_pendulum(env: Any, values: Mapping[str, float]) -> None:
    env.g, env.l, env.m = (values[name] for name in ("gravity", "length", "mass"))


def _lunar_lander(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make Gymnasium's LunarLander-v3, whose simulator loads only where it is used."""
    # Gymnasium's package for Box2D also loads pygame, whether or not anything is drawn.
    for package in ("Box2D", "pygame"):
        import_simulator(package, "LunarLander", "pip install 'plasticity[box2d]'")
    module = importlib.import_module("gymnasium.envs.box2d.lunar_lander")
    made: gymnasium.Env[Any, Any] = module.LunarLander(render_mode=render_mode)
    return made


DYNAMICS: Mapping[str, Dynamics] = {
    "cartpole": Dynamics(
        CartPoleEnv,
        4,
        500,
        0.02,
        {"gravity": 9.8, "half_length": 0.5, "force": 10.0},
        {"gravity": (2.0, 30.0), "half_length": (0.25, 2.0), "force": (5.0, 20.0)},
        _set_cartpole,
    ),
    # With a torque of at most 2 N m and a speed of at most 8 rad/s, it can be swung up in every task.
    "pendulum": Dynamics(
        PendulumEnv,
        3,
        200,
        0.05,
        {"gravity": 10.0, "length": 1.0, "mass": 1.0},
        {"gravity": (5.0, 12.0), "length": (0.8, 1.25), "mass": (0.8, 1.25)},
        _set_pendulum,
    ),
    "acrobot": Dynamics(AcrobotEnv, 6, 500, 0.2),
    # A step is one of Gymnasium's own units of time; its pictures have 30 a second.
    "mountaincar": Dynamics(MountainCarEnv, 2, 200, 1 / 30),
    "lunarlander": Dynamics(_lunar_lander, 8, 1000, 0.02),
}
"""Environments of Gymnasium's classic control and Box2D, by name."""
