"""Gain from compiling and half precision: the classifier's step and PPO's update, against eager float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.graphed_update import GraphedUpdate
from plasticity.agents.ppo.updates import (
    ActorBatch,
    ActorUpdate,
    CriticBatch,
    CriticUpdate,
    actor_optimizer,
    critic_optimizer,
    update_both,
)
from plasticity.agents.supervised.single import Classifier
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.rows import Effort, Row, time_row
from plasticity.scripts.bench.steps import BATCH_SIZE, SIGMA, STRENGTH
from plasticity.scripts.config.benchmarks import benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig

_SYRE = RegularizerSettings("syre", STRENGTH, SIGMA, anchor_seed=0)
_MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
_NETWORKS = {
    "CNN of permuted-mnist": _MNIST.network,
    "MLP of 3 x 2000": NetworkConfig(architecture="mlp", hidden=(2000,) * 3),
}
_MODES: dict[str, dict[str, Any]] = {
    "CUDA graph": {"compile": True},
    "bf16": {"precision": "bf16"},
    "bf16 in a CUDA graph": {"precision": "bf16", "compile": True},
}
_OBSERVATIONS, _ACTIONS = 28, 8  # of Bullet's ant


def compiled(effort: Effort) -> list[Row]:
    """Measure training steps with syre in other modes against eager float32; CUDA graphs only on a GPU."""
    rows = []
    for label, network in _NETWORKS.items():
        plain = _classifier_step(effort, network, {})
        for mode, options in _MODES.items():
            case = f"{label}: {mode} vs eager float32"
            if "compile" in options and effort.device != "cuda":
                rows.append(_unmeasured(case))
                continue
            ours = _classifier_step(effort, network, options)
            comparison = effort.compare(ours, plain, rounds=60, calls=5)
            rows.append(time_row("compiled", case, comparison, None))
    case = "PPO's whole update: CUDA graph vs eager"
    if effort.device != "cuda":
        return [*rows, _unmeasured(case)]
    updates = [_ppo_update(effort, compiles=compiles) for compiles in (True, False)]
    return [*rows, time_row("compiled", case, effort.compare(*updates, rounds=20), None)]


def _unmeasured(case: str) -> Row:
    return Row("compiled", case, None, "time", note="not measured: needs --device cuda")


def _classifier_step(
    effort: Effort, network: NetworkConfig, options: dict[str, Any]
) -> Callable[[], None]:
    torch.manual_seed(0)
    if effort.quick:
        network = replace(network, hidden=(8,))
    config = replace(_MNIST.agent, **options)
    classifier = Classifier(
        ImageNetwork((1, 28, 28), 10, network),
        config,
        _SYRE,
        data_order_seed=0,
        device=effort.device,
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((BATCH_SIZE, 1, 28, 28), generator=generator).to(effort.device)
    labels = torch.randint(0, 10, (BATCH_SIZE,), generator=generator).to(effort.device)

    def step() -> None:
        classifier._train_step(images, labels)

    for _ in range(8):  # enough for a CUDA graph to be captured
        step()
    return step


def _ppo_update(effort: Effort, *, compiles: bool) -> Callable[[], object]:
    config = PPOConfig(
        rollout_steps=effort.size(2048, 32),
        minibatch_size=effort.size(128, 16),
        epochs=effort.size(10, 2),
        compile=compiles,
    )
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(_OBSERVATIONS, _ACTIONS, config, generator=generator).to(effort.device)
    actor = ActorUpdate(policy, config, actor_optimizer(policy, config, _SYRE))
    critic = CriticUpdate(policy.critic, config, critic_optimizer(policy.critic, config, _SYRE))
    steps = config.rollout_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(effort.device)

    observations = normal(steps, _OBSERVATIONS)
    batches = (
        ActorBatch(observations, normal(steps, _ACTIONS), normal(steps) - 11, normal(steps)),
        CriticBatch(observations, normal(steps), normal(steps)),
    )
    data_orders = torch.stack(
        [torch.randperm(steps, generator=generator) for _ in range(config.epochs)]
    ).to(effort.device)
    if not compiles:
        rate = config.learning_rate
        return partial(update_both, actor, critic, batches, list(data_orders), rate, config)
    graphed = GraphedUpdate(actor, critic, config, torch.device(effort.device))
    update = partial(graphed, batches, data_orders, config.learning_rate)
    for _ in range(4):
        update()
    return update
