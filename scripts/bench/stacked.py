"""Gain from training many runs at once: stacked classifiers, and stacked PPO agents in one simulator."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from plasticity.agents.networks.image import ImageNetwork
from plasticity.agents.ppo.rollout import environment_seeds
from plasticity.agents.ppo.stacked_agent import StackedPPO
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.ppo import SYRE, config_of
from plasticity.scripts.bench.rows import Effort, Row, speed_row
from plasticity.scripts.bench.steps import SIGMA, STRENGTH
from plasticity.scripts.bench.timing import Comparison, synchronizer
from plasticity.scripts.bench.trainer import synthetic_task
from plasticity.scripts.bench.turns import missing, rate_row, unmeasured_row
from plasticity.scripts.config.benchmarks import benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig
from plasticity.tasks import PermutedImages
from plasticity.tasks.streams.base import stack

_MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
_GOAL_STACKED, _GOAL_SPEED = 32, 15.0
_GOAL_SHARE = 0.8  # of the simulation's speed, in training


# ---- classifiers ------------------------------------------------------------------------------------


def stacked_images(effort: Effort) -> list[Row]:
    """Measure the CNN of permuted-mnist: R stacked runs against R runs one after another.

    The latter is timed as one run, times R. The goal is for 32 runs on a GPU, where each side is measured
    with CUDA graphs as well, and the stacked runs also against runs on one thread of the CPU.
    """
    name, steps = "stacked_images", effort.size(100, 2)
    on_gpu = effort.device == "cuda"
    num_stacked = _GOAL_STACKED if on_gpu else effort.size(8, 2)
    ours = _stacked(effort, num_stacked, steps, compile=on_gpu)
    eager = _alone(effort, effort.device, steps, compile=False)
    case = f"{num_stacked} runs at once vs one after another"
    if not on_gpu:
        note = f"no goal: it applies to {_GOAL_STACKED} runs on a GPU"
        return [_run_row(name, case, effort, ours, eager, num_stacked, steps, note=note)]
    others = (
        ("these with CUDA graphs", ours, _alone(effort, effort.device, steps, compile=True)),
        ("ours without CUDA graphs", _stacked(effort, num_stacked, steps, compile=False), eager),
        ("these on one thread of the CPU", ours, _alone(effort, "cpu", steps, compile=False)),
    )
    return [
        _run_row(name, case, effort, ours, eager, num_stacked, steps, _GOAL_SPEED),
        *(
            _run_row(name, f"… {label}", effort, mine, theirs, num_stacked, steps)
            for label, mine, theirs in others
        ),
    ]


def _run_row(
    name: str,
    case: str,
    effort: Effort,
    ours: Callable[[], None],
    alone: Callable[[], None],
    num_stacked: int,
    steps: int,
    goal: float | None = None,
    note: str = "",
) -> Row:
    pair = effort.compare(ours, alone, rounds=7)
    one_after_another = tuple(seconds * num_stacked for seconds in pair.theirs)
    comparison = Comparison(pair.ours, one_after_another)
    rates = " / ".join(
        f"{num_stacked * steps / statistics.median(side):.0f}"
        for side in (comparison.ours, comparison.theirs)
    )
    note = f"{note}; {rates} steps/s" if note else f"{rates} steps/s"
    return speed_row(name, case, comparison, goal, note=note)


def _network(seed: int) -> ImageNetwork:
    torch.manual_seed(seed)
    return ImageNetwork((1, 28, 28), 10, _MNIST.network)


def _settings(seed: int) -> RegularizerSettings:
    return RegularizerSettings("syre", STRENGTH, SIGMA, anchor_seed=seed)


def _config(*, compile: bool) -> ClassifierConfig:
    return replace(_MNIST.agent, compile=compile)


def _alone(effort: Effort, device: str, steps: int, *, compile: bool) -> Callable[[], None]:
    task = synthetic_task(replace(effort, device=device))
    classifier = Classifier(
        _network(0), _config(compile=compile), _settings(0), data_order_seed=0, device=device
    )
    return partial(_train, classifier, task, steps)


def _stacked(effort: Effort, num_stacked: int, steps: int, *, compile: bool) -> Callable[[], None]:
    dataset = synthetic_task(effort).dataset
    streams = [
        PermutedImages(dataset, num_tasks=2, seed=seed, device=effort.device)
        for seed in range(num_stacked)
    ]
    classifier = StackedClassifier(
        [_network(seed) for seed in range(num_stacked)],
        _config(compile=compile),
        [_settings(seed) for seed in range(num_stacked)],
        data_order_seeds=range(num_stacked),
        device=effort.device,
    )
    return partial(_train, classifier, stack(streams)[1], steps)


def _train(trainer: Classifier | StackedClassifier, task: object, steps: int) -> None:
    """Train for `steps` steps; the task continues in the next turn, and starts again after its end."""
    left = steps

    def enough() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    while trainer.train(task, enough):  # type: ignore[arg-type]
        trainer.finish(task)  # type: ignore[arg-type]


# ---- ants -------------------------------------------------------------------------------------------


def stacked_ants(effort: Effort) -> list[Row]:
    """Measure Warp's ants: training against simulation alone, for several numbers of agents and ants.

    The result is the share of the simulation's own speed that training reaches. Published settings:
    2048 steps of each stacked agent, 10 epochs of 16 minibatches.
    """
    name = "stacked_ants"
    goal_case = "training vs simulation alone"
    if unmeasured := missing("mujoco_warp"):
        return [unmeasured_row(name, goal_case, _GOAL_SHARE, unmeasured)]
    on_gpu = effort.device == "cuda"
    sizes = _GPU_SIZES if on_gpu else ((effort.size(2, 1), effort.size(8, 2)),)
    rows = []
    for num_stacked, num_envs in sizes:
        goal = _GOAL_SHARE if on_gpu and (num_stacked, num_envs) == _GPU_SIZES[0] else None
        note = "" if on_gpu else "no goal: it applies to a GPU"
        case = f"{num_stacked} stacked agents x {num_envs} ants: {goal_case}"
        rows.append(_ants_row(name, case, effort, num_stacked, num_envs, goal, note))
    return rows


_GPU_SIZES = ((64, 64), (1, 64), (4, 64), (16, 64), (16, 256), (64, 256))
"""Stacked agents, and ants of each: first the sizes that the goal applies to; 64 to 16384 ants in all."""


def _ants_row(
    name: str,
    case: str,
    effort: Effort,
    num_stacked: int,
    num_envs: int,
    goal: float | None,
    note: str,
) -> Row:
    # Imported here, as the other measurements need neither MuJoCo nor Warp.
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415

    config = replace(config_of(effort), compile=effort.device == "cuda")
    seeds = [seed for run in range(num_stacked) for seed in environment_seeds(run, num_envs)]

    def ants() -> SlipperyAntWarp:
        return SlipperyAntWarp(
            num_stacked * num_envs, reset_seeds=seeds, friction=1.0, device=effort.device
        )

    with closing(ants()) as alone, closing(ants()) as trained:
        agent = StackedPPO(
            trained,
            config,
            [SYRE] * num_stacked,
            [SYRE] * num_stacked,
            seeds=range(num_stacked),
        )
        synchronize = synchronizer(effort.device)
        actions = (
            torch.rand(num_stacked * num_envs, alone.action_size, device=effort.device) * 2 - 1
        )
        alone.reset()

        def simulate() -> None:
            for _ in range(config.rollout_steps // num_envs):
                alone.step(actions)
            synchronize()

        pair = effort.compare(agent.iterate, simulate, rounds=7)
    steps = config.rollout_steps * num_stacked
    return rate_row(name, case, pair.ours, pair.theirs, steps, goal, note=note)
