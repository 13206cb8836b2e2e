"""Steps per second of MuJoCo's ant: against EnvPool's, which is written in C++, and the engine's own step."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np

from plasticity.scripts.bench.ant import Array, random_actions, step_all
from plasticity.scripts.bench.comparison import CORES, Effort, Goal, Requirement, goal_on_cores
from plasticity.scripts.bench.rows import Row, ratio_row
from plasticity.tasks import slippery_ant_vector
from plasticity.tasks.control.ant.mujoco import FRAME_SKIP, load_ant

MANY, MORE = 8, 64
"""Numbers of ants side by side."""


def mujoco_vector(effort: Effort) -> Iterator[Row]:
    """Measure MuJoCo's ants: one, several and many against EnvPool's `Ant-v5`, on as many cores.

    The physics are the same; EnvPool's observes contact forces (105 entries), and so does ours here. And one
    of ours against the engine alone, which is the limit.
    """
    for num_envs, workers in ((1, 1), (MANY, CORES), (effort.size(MORE, MANY), CORES)):
        yield _against_envpool(effort, num_envs, workers)
    yield _against_engine(effort)


def _against_envpool(effort: Effort, num_envs: int, workers: int) -> Row:
    case = f"{num_envs} MuJoCo ants on {workers} core{'s' if workers > 1 else ''}: vs EnvPool"
    needs: tuple[Requirement, ...] = ("mujoco", "envpool")
    if unmeasured := effort.unmeasured(case, "speed", None, *needs):
        return unmeasured
    envpool: Any = importlib.import_module("envpool")
    steps = effort.size(max(100, 1600 // num_envs), 5)
    actions = random_actions(steps, num_envs)
    with ExitStack() as stack:
        ours = stack.enter_context(
            closing(
                slippery_ant_vector(
                    num_envs, workers, engine="mujoco", include_contact_forces=True, copy=False
                )
            )
        )
        theirs = stack.enter_context(
            closing(
                envpool.make(
                    "Ant-v5", env_type="gymnasium", num_envs=num_envs, num_threads=workers, seed=0
                )
            )
        )
        ours.reset(seed=0)
        theirs.reset()
        times = effort.in_turns(
            {
                "ours": partial(step_all, ours, actions),
                "theirs": partial(step_all, theirs, actions.astype(np.float64)),
            },
            rounds=9,
            collect_garbage=True,
        )
    bound = Goal(goal=None, note="") if workers == 1 else goal_on_cores(1.0)
    return ratio_row(
        case,
        "speed",
        times["ours"],
        times["theirs"],
        steps=(steps * num_envs,) * 2,
        **bound,
    )


def _against_engine(effort: Effort) -> Row:
    case = "a MuJoCo ant: vs the engine's own steps, the limit"
    if unmeasured := effort.unmeasured(case, "speed", None, "mujoco"):
        return unmeasured
    steps = effort.size(1000, 20)
    actions = random_actions(steps, 1)
    with closing(slippery_ant_vector(1, engine="mujoco", copy=False)) as ours:
        ours.reset(seed=0)
        times = effort.in_turns(
            {
                "ours": partial(step_all, ours, actions),
                "theirs": partial(_engine_alone, actions[:, 0].astype(np.float64)),
            },
            rounds=9,
            collect_garbage=True,
        )
    return ratio_row(case, "speed", times["ours"], times["theirs"], steps=(steps,) * 2)


def _engine_alone(actions: Array) -> None:
    """Step the physics with these actions, and read nothing back. Shape: (steps, 8)."""
    mujoco: Any = importlib.import_module("mujoco")
    model = load_ant()
    data = mujoco.MjData(model)
    control = data.ctrl
    for action in actions:
        control[:] = action
        mujoco.mj_step(model, data, FRAME_SKIP)
