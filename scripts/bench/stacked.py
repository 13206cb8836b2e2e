"""What many runs at once bring: classifiers along a replica axis, and ants in one simulator."""

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
from plasticity.agents.supervised.classifier import Classifier, ClassifierConfig
from plasticity.agents.supervised.stacked_classifier import StackedClassifier
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.ppo import SYRE, config_of
from plasticity.scripts.bench.rows import Effort, Row, speed_row
from plasticity.scripts.bench.steps import SIGMA, STRENGTH
from plasticity.scripts.bench.timing import Comparison, synchronizer
from plasticity.scripts.bench.trainer import synthetic_task
from plasticity.scripts.bench.turns import missing, rate_row, unmeasured_row
from plasticity.scripts.config.benchmarks import IMAGE_BENCHMARKS
from plasticity.tasks import PermutedImages
from plasticity.tasks.streams.stacked_permuted_images import StackedPermutedImages

_MNIST = IMAGE_BENCHMARKS["permuted-mnist"]
_GOAL_REPLICAS, _GOAL_SPEED = 32, 15.0
_GOAL_SHARE = 0.8  # of the simulation's speed, in training


# ---- classifiers ------------------------------------------------------------------------------------


def stacked_images(effort: Effort) -> list[Row]:
    """The CNN of permuted-mnist: R runs at once against one after another, which is one run R times.

    The goal is for 32 on a GPU. There each side is measured with CUDA graphs as well, and a run at once
    with 31 others against a run alone on the CPU.
    """
    name, steps = "stacked_images", effort.size(100, 2)
    on_gpu = effort.device == "cuda"
    replicas = _GOAL_REPLICAS if on_gpu else effort.size(8, 2)
    ours = _at_once(effort, replicas, steps, compile=on_gpu)
    eager = _alone(effort, effort.device, steps, compile=False)
    case = f"{replicas} runs at once vs one after another"
    if not on_gpu:
        note = f"no goal: it is for {_GOAL_REPLICAS} on a GPU"
        return [_run_row(name, case, effort, ours, eager, replicas, steps, note=note)]
    others = (
        ("these with CUDA graphs", ours, _alone(effort, effort.device, steps, compile=True)),
        ("ours without CUDA graphs", _at_once(effort, replicas, steps, compile=False), eager),
        ("these on one thread of the CPU", ours, _alone(effort, "cpu", steps, compile=False)),
    )
    return [
        _run_row(name, case, effort, ours, eager, replicas, steps, _GOAL_SPEED),
        *(
            _run_row(name, f"… {label}", effort, mine, theirs, replicas, steps)
            for label, mine, theirs in others
        ),
    ]


def _run_row(
    name: str,
    case: str,
    effort: Effort,
    ours: Callable[[], None],
    alone: Callable[[], None],
    replicas: int,
    steps: int,
    goal: float | None = None,
    note: str = "",
) -> Row:
    pair = effort.compare(ours, alone, rounds=7)
    one_after_another = tuple(seconds * replicas for seconds in pair.theirs)
    comparison = Comparison(pair.ours, one_after_another)
    rates = " / ".join(
        f"{replicas * steps / statistics.median(side):.0f}"
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
    return replace(_MNIST.classifier, compile=compile)


def _alone(effort: Effort, device: str, steps: int, *, compile: bool) -> Callable[[], None]:
    task = synthetic_task(replace(effort, device=device))
    classifier = Classifier(
        _network(0), _config(compile=compile), _settings(0), data_order_seed=0, device=device
    )
    return partial(_train, classifier, task, steps)


def _at_once(effort: Effort, replicas: int, steps: int, *, compile: bool) -> Callable[[], None]:
    dataset = synthetic_task(effort).dataset
    streams = [
        PermutedImages(dataset, num_tasks=2, seed=seed, device=effort.device)
        for seed in range(replicas)
    ]
    classifier = StackedClassifier(
        [_network(seed) for seed in range(replicas)],
        _config(compile=compile),
        [_settings(seed) for seed in range(replicas)],
        data_order_seeds=range(replicas),
        device=effort.device,
    )
    return partial(_train, classifier, StackedPermutedImages(streams)[1], steps)


def _train(trainer: Classifier | StackedClassifier, task: object, steps: int) -> None:
    """So many steps; the task goes on in the next turn, and begins again after its end."""
    left = steps

    def enough() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    while trainer.train(task, enough):  # type: ignore[arg-type]
        trainer.finish(task)  # type: ignore[arg-type]


# ---- ants -------------------------------------------------------------------------------------------


def stacked_ants(effort: Effort) -> list[Row]:
    """Warp's ants: training against simulation alone, and how both grow with replicas and ants.

    The number is the share of the simulation's own speed that training reaches. Published settings:
    2048 steps of each replica, 10 epochs of 16 minibatches.
    """
    name = "stacked_ants"
    goal_case = "training vs simulation alone"
    if unmeasured := missing("mujoco_warp"):
        return [unmeasured_row(name, goal_case, _GOAL_SHARE, unmeasured)]
    on_gpu = effort.device == "cuda"
    sizes = _GPU_SIZES if on_gpu else ((effort.size(2, 1), effort.size(8, 2)),)
    rows = []
    for replicas, num_envs in sizes:
        goal = _GOAL_SHARE if on_gpu and (replicas, num_envs) == _GPU_SIZES[0] else None
        note = "" if on_gpu else "no goal: it is for a GPU"
        case = f"{replicas} replicas x {num_envs} ants: {goal_case}"
        rows.append(_ants_row(name, case, effort, replicas, num_envs, goal, note))
    return rows


_GPU_SIZES = ((64, 64), (1, 64), (4, 64), (16, 64), (16, 256), (64, 256))
"""StackedNetworks, and ants of each: first what the goal is for; 64 to 16384 ants in all."""


def _ants_row(
    name: str,
    case: str,
    effort: Effort,
    replicas: int,
    num_envs: int,
    goal: float | None,
    note: str,
) -> Row:
    # For whoever has neither MuJoCo nor Warp, whatever else is measured.
    from plasticity.tasks.control.ant.warp import SlipperyAntWarp  # noqa: PLC0415

    config = replace(config_of(effort), compile=effort.device == "cuda")
    seeds = [seed for run in range(replicas) for seed in environment_seeds(run, num_envs)]

    def ants() -> SlipperyAntWarp:
        return SlipperyAntWarp(
            replicas * num_envs, reset_seeds=seeds, friction=1.0, device=effort.device
        )

    with closing(ants()) as alone, closing(ants()) as trained:
        agent = StackedPPO(
            trained,
            config,
            [SYRE] * replicas,
            [SYRE] * replicas,
            seeds=range(replicas),
        )
        synchronize = synchronizer(effort.device)
        actions = torch.rand(replicas * num_envs, alone.action_size, device=effort.device) * 2 - 1
        alone.reset()

        def simulate() -> None:
            for _ in range(config.rollout_steps // num_envs):
                alone.step(actions)
            synchronize()

        pair = effort.compare(agent.iterate, simulate, rounds=7)
    steps = config.rollout_steps * replicas
    return rate_row(name, case, pair.ours, pair.theirs, steps, goal, note=note)
