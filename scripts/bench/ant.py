"""Steps per second of the ant: against the reference and Bullet alone, and in vector environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from plasticity.scripts.bench.rows import Effort, Row
from plasticity.scripts.bench.turns import (
    CORES,
    fastest,
    goal_on_cores,
    in_turns,
    missing,
    rate_row,
    unmeasured_row,
)
from plasticity.tasks import SlipperyAntBulletEnv, slippery_ant_vector
from plasticity.tasks.control.ant.actions import NUM_JOINTS
from plasticity.tasks.control.ant.bullet import BULLET_FRICTION
from plasticity.tasks.control.ant.bullet_simulation import AntSimulation

REFERENCE = "pybullet_envs_gymnasium:AntBulletEnv-v0"
"""Environment that ours is compared with, as passed to `gymnasium.make`."""

OURS = "plasticity.tasks:plasticity/SlipperyAntBullet-v0"
"""Environment of our ant, as passed to `gymnasium.make`; its friction is then the reference's."""

_SEED = 0
_START_ANGLE, _TORQUE = 0.1, 250.0  # the ant's, in rad, and in N m at an action of 1

Array = NDArray[Any]


def ant_environment(effort: Effort) -> list[Row]:
    """Measure one ant in one process against the reference, and against Bullet alone.

    Bullet alone reads nothing back. All contenders make the same motion.
    """
    name, goal = "ant_environment", 2.0
    case, limit = "ours vs AntBulletEnv-v0", "ours vs Bullet's own step: the limit"
    unmeasured = missing("pybullet_envs_gymnasium")
    if without := missing("pybullet"):
        return [unmeasured_row(name, case, goal, without)]
    actions = random_actions(effort.size(1000, 50))
    with ExitStack() as stack:
        ours = stack.enter_context(closing(gymnasium.make(OURS)))
        bullet = stack.enter_context(closing(BulletAlone(actions, play(ours, actions))))
        contenders: dict[str, Callable[[], object]] = {
            "ours": partial(play, ours, actions),
            "bullet": bullet.play,
        }
        if not unmeasured:
            reference = stack.enter_context(closing(gymnasium.make(REFERENCE)))
            contenders["reference"] = partial(play, reference, actions)
        times = in_turns(contenders, effort.rounds or effort.size(9, 2))
    rows = [
        unmeasured_row(name, case, goal, unmeasured)
        if unmeasured
        else rate_row(name, case, times["ours"], times["reference"], len(actions), goal)
    ]
    return [*rows, rate_row(name, limit, times["ours"], times["bullet"], len(actions))]


def ant_vector(effort: Effort) -> list[Row]:
    """Measure eight ants: ours in two processes against the vector environments of Gymnasium and SB3.

    SB3 is Stable-Baselines3; all of them run our ant.
    """
    name, ours, alone = "ant_vector", f"ours, {CORES} processes", "ours, in one process"
    num_envs, steps = effort.size(8, 2), effort.size(100, 5)
    case = f"{num_envs} ants, {ours}"
    if without := missing("pybullet"):
        return [unmeasured_row(name, case, 1.1, without)]
    actions = random_actions(steps, num_envs)
    env_fns = [SlipperyAntBulletEnv] * num_envs
    same_step = AutoresetMode.SAME_STEP
    makers: dict[str, Callable[[], Any]] = {
        ours: lambda: slippery_ant_vector(num_envs, CORES),
        alone: lambda: slippery_ant_vector(num_envs),
        "Gymnasium Sync": lambda: SyncVectorEnv(env_fns, autoreset_mode=same_step),
        # Not fork: this process may already have threads.
        "Gymnasium Async": lambda: AsyncVectorEnv(
            env_fns, context="forkserver", autoreset_mode=same_step
        ),
        "SB3 Dummy": lambda: DummyVecEnv(list(env_fns)),
        "SB3 Subproc": lambda: SubprocVecEnv(list(env_fns)),
    }
    with ExitStack() as stack:
        contenders = {}
        for label, make in makers.items():
            envs = stack.enter_context(closing(make()))
            envs.reset()
            contenders[label] = partial(step_all, envs, actions)
        times = in_turns(contenders, effort.rounds or effort.size(9, 2))
    best = fastest({label: times[label] for label in makers if label not in (ours, alone)})
    goal, no_goal = goal_on_cores(1.1)
    return [
        rate_row(
            name,
            f"{case} vs {label}",
            times[ours],
            times[label],
            steps * num_envs,
            goal if label == best else None,
            note=(no_goal or "the fastest alternative") if label == best else "",
        )
        for label in makers
        if label != ours
    ]


# ---- playing ----------------------------------------------------------------------------------------


def random_actions(*shape: int) -> Array:
    """Draw the actions of an untrained policy, standard normal and clipped. Shape: (*shape, 8), float32."""
    drawn = np.random.default_rng(_SEED).standard_normal((*shape, NUM_JOINTS), np.float32)
    return np.clip(drawn, -1.0, 1.0)


def play(env: gymnasium.Env[Any, Any], actions: Array) -> list[int]:
    """Play some actions, always from the same initial state.

    Args:
        env: Environment of an ant.
        actions: Actions to play. Shape: (steps, 8).

    Returns:
        The steps, counted from 0, that ended an episode; after each, the next episode begins.
    """
    ends = []
    env.reset(seed=_SEED)
    for step, action in enumerate(actions):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            ends.append(step)
            env.reset()
    return ends


class BulletAlone:
    """Bullet alone, making the motion of `play`: it sets torques and steps the world, but reads nothing back.

    Args:
        actions: Actions from -1 to 1. Shape: (steps, 8).
        ends: Steps that `play` returned for these actions.
    """

    def __init__(self, actions: Array, ends: Sequence[int]) -> None:
        self.ant = AntSimulation()
        self._torques = (actions.astype(np.float64) * _TORQUE).tolist()
        self._ends = frozenset(ends)

    def play(self) -> None:
        """Play all actions from the initial state."""
        generator, _ = np_random(_SEED)
        self._restart(generator)
        for step, torques in enumerate(self._torques):
            self.ant.step(torques)
            if step in self._ends:
                self._restart(generator)

    def _restart(self, generator: np.random.Generator) -> None:
        angles = generator.uniform(-_START_ANGLE, _START_ANGLE, NUM_JOINTS)
        self.ant.restart(angles.tolist())
        self.ant.set_friction(BULLET_FRICTION)

    def close(self) -> None:
        """Free Bullet's world."""
        self.ant.close()


def step_all(envs: Any, actions: Array) -> None:
    """Step a vector environment (ours, Gymnasium's or SB3's) with actions of shape (steps, envs, 8)."""
    for each in actions:
        envs.step(each)
