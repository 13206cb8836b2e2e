"""Physics engines of Slippery-Ant, and vector environments of its ants."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from plasticity.checks import require_integer
from plasticity.tasks.control.ant.bullet import SlipperyAntBulletEnv
from plasticity.tasks.control.ant.mujoco import SlipperyAntMujocoEnv
from plasticity.tasks.control.schedule import share_of_environment
from plasticity.tasks.control.slippery.config import DEVICE_ENGINES
from plasticity.tasks.vector.environments import VectorEnvironments

ENGINES: Mapping[str, type[SlipperyAntBulletEnv | SlipperyAntMujocoEnv]] = {
    "bullet": SlipperyAntBulletEnv,
    "mujoco": SlipperyAntMujocoEnv,
    "warp": SlipperyAntMujocoEnv,
}
"""Physics engines of Slippery-Ant, by name, with the environment of a single ant. Warp steps thousands of
ants at once, on a GPU; its single ant is the MuJoCo environment, on the CPU."""


def slippery_ant_vector(
    num_envs: int,
    num_workers: int = 0,
    *,
    engine: str = "bullet",
    change_every: int | None = None,
    copy: bool = True,
    **arguments: Any,
) -> VectorEnvironments:
    """Make ants that share one friction, or one stream of frictions.

    Args:
        num_envs: Number of ants.
        num_workers: Number of processes that step them, this one included; 0 or 1: all run in this process.
        engine: One of `ENGINES`, except `DEVICE_ENGINES`.
        change_every: Total steps of all environments from one friction to the next: a multiple of their
            number, as each one counts its own share. An environment skips tasks if its share is shorter
            than an episode, which has up to 1000 steps: the friction changes only at a reset.
        copy: Whether returned arrays are copies: see `VectorEnvironments`.
        arguments: Further arguments of the environment, such as friction, task_seed and num_tasks.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or `change_every` cannot be divided.
        ModuleNotFoundError: if the engine is not installed (from a worker, RuntimeError).

    Examples:
        >>> envs = slippery_ant_vector(4, engine="mujoco", task_seed=0, change_every=8000)
        >>> observations, info = envs.reset(seed=0)
        >>> observations.shape
        (4, 27)
        >>> envs.close()
    """
    num_envs = require_integer("num_envs", num_envs, minimum=1)
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}: {engine!r}.")
    if engine in DEVICE_ENGINES:
        raise ValueError(
            f"engine={engine!r} steps all its ants at once on a device, not in processes: use "
            "engine='mujoco', or make the device's ants directly."
        )
    if change_every is not None:
        change_every = share_of_environment(change_every, num_envs)
    env_fn = partial(ENGINES[engine], change_every=change_every, **arguments)
    return VectorEnvironments([env_fn] * num_envs, num_workers, copy=copy)
