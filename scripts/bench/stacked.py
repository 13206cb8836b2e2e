"""Gain from training many runs at once: stacked classifiers, and stacked PPO agents in one simulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial

import torch

from plasticity.agents.ppo.environments import environment_seeds
from plasticity.scripts.bench.comparison import Comparison, Effort, Side, both, goal_if
from plasticity.scripts.bench.learners import (
    MNIST,
    make_stacked_ppo,
    ppo_config,
    training_alone,
    training_stacked,
)
from plasticity.scripts.bench.rows import Row
from plasticity.scripts.bench.timing import synchronizer

_GOAL_STACKED, _GOAL_SPEED = 32, 15.0
_GOAL_SHARE = 0.8  # of the simulation's speed, in training


def stacked_images(effort: Effort) -> list[Row]:
    """Measure the CNN of permuted-mnist: R stacked runs against R runs one after another.

    The latter is timed as one run: compared are the steps of all runs per second. The goal is for 32 runs on
    a GPU, where each side is measured with CUDA graphs as well, and the stacked runs also against runs on
    one thread of the CPU.
    """
    count = _GOAL_STACKED if effort.on_gpu else effort.size(8, 2)
    steps = effort.size(100, 2)
    eager, graphed = replace(MNIST.agent, compile=False), replace(MNIST.agent, compile=True)
    ours = partial(training_stacked, effort, count, steps, graphed if effort.on_gpu else eager)
    theirs = partial(training_alone, effort, steps, eager)
    pairs = {f"{count} runs at once vs one after another": (ours, theirs)}
    if effort.on_gpu:
        on_cpu = replace(effort, device="cpu")
        pairs |= {
            "… these with CUDA graphs": (ours, partial(training_alone, effort, steps, graphed)),
            "… ours without CUDA graphs": (
                partial(training_stacked, effort, count, steps, eager),
                theirs,
            ),
            "… these on one thread of the CPU": (
                ours,
                partial(training_alone, on_cpu, steps, eager),
            ),
        }
    bound = goal_if(effort.on_gpu, _GOAL_SPEED, f"it applies to {_GOAL_STACKED} runs on a GPU")
    comparisons = [
        Comparison(
            case=case,
            unit="speed",
            sides=both(mine, other),
            rounds=7,
            steps=(count * steps, steps),
        )
        for case, (mine, other) in pairs.items()
    ]
    comparisons[0] = replace(comparisons[0], **bound)
    return [each.measured(effort) for each in comparisons]


# ---- ants -------------------------------------------------------------------------------------------


def stacked_ants(effort: Effort) -> Iterator[Row]:
    """Measure Warp's ants: training against simulation alone, for several numbers of agents and ants.

    The result is the share of the simulation's own speed that training reaches. Published settings:
    2048 steps of each stacked agent, 10 epochs of 16 minibatches.
    """
    sizes = _GPU_SIZES if effort.on_gpu else ((effort.size(2, 1), effort.size(8, 2)),)
    bound = goal_if(effort.on_gpu, _GOAL_SHARE, "it applies to a GPU")
    for count, num_envs in sizes:
        steps = ppo_config(effort).rollout_steps * count
        with ExitStack() as stack:
            comparison = Comparison(
                case=f"{count} stacked agents x {num_envs} ants: training vs simulation alone",
                unit="speed",
                sides=partial(_ant_sides, effort, stack, count, num_envs),
                rounds=7,
                steps=(steps, steps),
                needs=("mujoco_warp",),
            )
            if (count, num_envs) == sizes[0]:
                comparison = replace(comparison, **bound)
            yield comparison.measured(effort)


_GPU_SIZES = ((64, 64), (1, 64), (4, 64), (16, 64), (16, 256), (64, 256))
"""Stacked agents, and ants of each: first the sizes that the goal applies to; 64 to 16384 ants in all."""


def _ant_sides(effort: Effort, stack: ExitStack, count: int, num_envs: int) -> tuple[Side, Side]:
    # Imported here, as the other measurements need neither MuJoCo nor Warp.
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415

    seeds = [seed for run in range(count) for seed in environment_seeds(run, num_envs)]

    def ants() -> SlipperyAntWarp:
        made = SlipperyAntWarp(len(seeds), reset_seeds=seeds, friction=1.0, device=effort.device)
        return stack.enter_context(closing(made))

    agent, alone = make_stacked_ppo(ants(), effort, count), ants()
    synchronize = synchronizer(effort.device)
    actions = torch.rand(len(seeds), alone.action_size, device=effort.device) * 2 - 1
    alone.reset()

    def simulate() -> None:
        for _ in range(ppo_config(effort).rollout_steps // num_envs):
            alone.step(actions)
        synchronize()

    return agent.iterate, simulate
