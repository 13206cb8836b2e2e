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

from plasticity.scripts.bench.comparison import CORES, Effort, Goal, Side, goal_on_cores
from plasticity.scripts.bench.rows import Row, ratio_row
from plasticity.scripts.bench.timing import fastest
from plasticity.tasks import SlipperyAntBulletEnv, slippery_ant_vector
from plasticity.tasks.control.ant.bullet import BULLET_FRICTION
from plasticity.tasks.control.ant.bullet_simulation import AntSimulation
from plasticity.tasks.control.ant.environment import NUM_JOINTS

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
    case, goal = "ours vs AntBulletEnv-v0", 2.0
    if unmeasured := effort.unmeasured(case, "speed", goal, "pybullet"):
        return [unmeasured]
    unmeasured = effort.unmeasured(case, "speed", goal, "pybullet_envs_gymnasium")
    actions = random_actions(effort.size(1000, 50))
    with ExitStack() as stack:
        ours = stack.enter_context(closing(gymnasium.make(OURS)))
        bullet = stack.enter_context(closing(BulletAlone(actions, play(ours, actions))))
        contenders: dict[str, Side] = {"ours": partial(play, ours, actions), "bullet": bullet.play}
        if not unmeasured:
            reference = stack.enter_context(closing(gymnasium.make(REFERENCE)))
            contenders["reference"] = partial(play, reference, actions)
        times = effort.in_turns(contenders, rounds=9, collect_garbage=True)
    row = partial(ratio_row, unit="speed", ours=times["ours"], steps=(len(actions),) * 2)
    return [
        unmeasured or row(case, theirs=times["reference"], goal=goal),
        row("ours vs Bullet's own step: the limit", theirs=times["bullet"]),
    ]


def ant_vector(effort: Effort) -> list[Row]:
    """Measure eight ants: ours in two processes against the vector environments of Gymnasium and SB3.

    SB3 is Stable-Baselines3; all of them run our ant.
    """
    ours, alone = f"ours, {CORES} processes", "ours, in one process"
    num_envs, steps = effort.size(8, 2), effort.size(100, 5)
    case = f"{num_envs} ants, {ours}"
    if unmeasured := effort.unmeasured(case, "speed", 1.1, "pybullet"):
        return [unmeasured]
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
        times = effort.in_turns(contenders, rounds=9, collect_garbage=True)
    row = partial(ratio_row, unit="speed", ours=times.pop(ours), steps=(steps * num_envs,) * 2)
    best = fastest({label: seconds for label, seconds in times.items() if label != alone})
    bound = goal_on_cores(1.1)
    bound["note"] = bound["note"] or "the fastest alternative"
    bounds = {best: bound}
    no_bound = Goal(goal=None, note="")
    return [
        row(f"{case} vs {label}", theirs=seconds, **bounds.get(label, no_bound))
        for label, seconds in times.items()
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
