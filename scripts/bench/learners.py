"""Learners that are measured, with the benchmarks' settings, and what they learn from.

Agents are made here and nowhere else in `plasticity bench`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents import PPO, PRESETS, Environments, PPOConfig, StackedPPO
from plasticity.agents.networks import MLP, Network
from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.single_policy import SinglePolicy
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.optimizers import OPTIMIZERS, make_optimizer
from plasticity.agents.supervised.single import Classifier
from plasticity.agents.supervised.stacked import StackedClassifier
from plasticity.agents.supervised.trainer import Trainer
from plasticity.mitigations import PLAIN_METHOD, SeededMethod
from plasticity.scripts.bench.comparison import Effort, Side
from plasticity.scripts.config.benchmarks import BENCHMARKS, benchmark_config
from plasticity.scripts.config.run_config import ControlRunConfig, SupervisedRunConfig
from plasticity.tasks import ImageDataset, ImageTask, PermutedImages, VectorEnvironments
from plasticity.tasks.streams.base import stack

MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
"""Benchmark whose settings the classifiers have."""

SYRE = SeededMethod((BENCHMARKS["permuted-mnist"].mitigation("syre"),), anchor_seed=0)
"""Syre's settings on it."""

ANT = benchmark_config("slippery-ant", ControlRunConfig)
"""Benchmark whose settings the agents have."""

ANT_SYRE = SeededMethod((BENCHMARKS["slippery-ant"].mitigation("syre"),), anchor_seed=0)
"""Syre's settings on it, for actor and critic."""

NUM_ACTIONS = 8
"""Size of an ant's action."""

CLASSIFIERS: dict[str, ClassifierConfig] = {
    "SGD": replace(MNIST.agent, momentum=0.0),
    "SGD, momentum 0.9": MNIST.agent,
    "Adam": replace(MNIST.agent, optimizer="adam", momentum=0.0, learning_rate=1e-3),
}
"""Settings of classifiers by the label of their optimizer."""

# ---- images -----------------------------------------------------------------------------------------


def wide_mlp(effort: Effort) -> MLP:
    """Return the shape of an MLP of 3 x 2000."""
    return MLP(hidden=(effort.size(2000, 50),) * 3)


def image_network(config: Network = MNIST.network, seed: int = 0) -> nn.Module:
    """Return a network for MNIST; by default, the benchmark's CNN."""
    torch.manual_seed(seed)
    return config.make((1, 28, 28), 10)


def synthetic_dataset(effort: Effort) -> ImageDataset:
    """Return images of random pixels, as many and as large as MNIST's: the time does not depend on them."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        return images, torch.randint(0, 10, (count,), generator=generator)

    train, test = part(effort.size(60_000, 256)), part(effort.size(10_000, 64))
    return ImageDataset("synthetic", *train, *test, 10)


def synthetic_task(effort: Effort) -> ImageTask:
    """Return a permuted task of the synthetic data."""
    dataset = synthetic_dataset(effort)
    return PermutedImages(dataset, num_tasks=2, seed=0, device=effort.device)[1]


def synthetic_batches(effort: Effort) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of random pixels without end.

    Many in turn: a single one would be memorized, and its gradients would vanish.
    """
    count, size = effort.size(100, 2), MNIST.agent.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, size, 1, 28, 28), generator=generator).to(effort.device)
    labels = torch.randint(0, 10, (count, size), generator=generator).to(effort.device)
    return itertools.cycle(zip(images, labels, strict=True))


def learning_step(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that does forward, backward and update on a batch, in plain torch."""

    def step(images: Tensor, labels: Tensor) -> None:
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def on_batches(step: Callable[[Tensor, Tensor], object], effort: Effort) -> Side:
    """Return a function that calls a step on the next synthetic batch."""
    batches = synthetic_batches(effort)
    return lambda: step(*next(batches))


def torch_optimizer(label: str) -> tuple[Any, dict[str, Any]]:
    """Return torch's optimizer of one of `CLASSIFIERS`, and its settings but for the learning rate."""
    config = CLASSIFIERS[label]
    extra = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return OPTIMIZERS[config.optimizer], extra


def syre_optimizer(network: nn.Module, config: ClassifierConfig) -> torch.optim.Optimizer:
    """Return the optimizer that a classifier has with syre."""
    return make_optimizer(network, config, SYRE.regularizer)


def make_classifier(
    network: nn.Module,
    device: str,
    method: SeededMethod = PLAIN_METHOD,
    config: ClassifierConfig = MNIST.agent,
) -> Classifier:
    """Return a classifier that trains a network."""
    return Classifier(network, config, method, data_order_seed=0, device=device)


def classifier_step(classifier: Classifier) -> Callable[[Tensor, Tensor], None]:
    """Return the function with which a classifier learns from one batch."""
    return classifier._train_step


def train_whole_task(classifier: Classifier, task: ImageTask) -> None:
    """Train on a whole task, and leave the classifier ready for the same one again."""
    classifier.train(task)
    # Reset the position in the task, which `finish` would do as well, but after an evaluation.
    classifier.load_state_dict({**classifier.state_dict(), "step": 0})


def training_alone(effort: Effort, steps: int, config: ClassifierConfig) -> Side:
    """Return a function that trains one classifier with syre for some steps."""
    classifier = make_classifier(image_network(), effort.device, SYRE, config)
    return partial(train_steps, classifier, synthetic_task(effort), steps)


def training_stacked(effort: Effort, count: int, steps: int, config: ClassifierConfig) -> Side:
    """Return a function that trains stacked classifiers with syre for some steps."""
    seeds = range(count)
    classifier = StackedClassifier(
        [image_network(seed=seed) for seed in seeds],
        config,
        [replace(SYRE, anchor_seed=seed) for seed in seeds],
        data_order_seeds=seeds,
        device=effort.device,
    )
    dataset = synthetic_dataset(effort).to(effort.device)
    streams = [
        PermutedImages(dataset, num_tasks=2, seed=seed, device=effort.device) for seed in seeds
    ]
    return partial(train_steps, classifier, stack(streams)[1], steps)


def train_steps(trainer: Trainer, task: Any, steps: int) -> None:
    """Train for `steps` steps; the task continues in the next turn, and starts again after its end."""
    left = steps

    def enough() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    while trainer.train(task, enough):
        trainer.finish(task)


# ---- PPO --------------------------------------------------------------------------------------------


def ppo_config(effort: Effort) -> PPOConfig:
    """Return the published settings, or small ones for checking that everything runs."""
    if effort.quick:
        return PPOConfig(hidden=(8, 8), rollout_steps=32, epochs=1, minibatch_size=16)
    return PRESETS["standard"]


def make_ppo(
    envs: VectorEnvironments,
    effort: Effort,
    cores: int,
    method: SeededMethod = PLAIN_METHOD,
) -> PPO:
    """Return an agent that learns on some cores."""
    return PPO(
        envs,
        ppo_config(effort),
        method.mitigations,
        method.mitigations,
        seed=0,
        update_threads=cores,
    )


def make_stacked_ppo(envs: Environments, effort: Effort, count: int) -> StackedPPO:
    """Return stacked agents with syre, compiled on a GPU."""
    methods = [ANT_SYRE.mitigations] * count
    config = replace(ppo_config(effort), compile=effort.on_gpu)
    return StackedPPO(envs, config, methods, methods, seeds=range(count))


def ppo_update(effort: Effort, observation_size: int, *, compile: bool = False) -> Side:
    """Return an update with syre: all epochs of actor and critic, on a random rollout.

    Args:
        effort: Device, and size of networks and rollout.
        observation_size: Size of an ant's observation.
        compile: Whether the update is a CUDA graph.

    Raises:
        ValueError: if a CUDA graph is wanted on a CPU.
    """
    config = replace(ppo_config(effort), compile=compile)
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(observation_size, NUM_ACTIONS, config, generator=generator)
    policy.to(effort.device)
    policies = SinglePolicy(policy, config, ANT_SYRE, ANT_SYRE)
    steps = config.rollout_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(effort.device)

    observations, actions = normal(steps, observation_size), normal(steps, NUM_ACTIONS)
    values = normal(steps)
    # Roughly the log-density of 8 standard normal numbers, so that ratios stay near 1.
    log_probabilities = -0.5 * (actions.square().sum(-1) + NUM_ACTIONS * 1.837877)
    batch = Batch(observations, actions, log_probabilities, values, values, values + 1)
    orders = [torch.randperm(steps, generator=generator) for _ in range(config.epochs)]
    data_orders = torch.stack(orders).to(effort.device)
    return partial(policies.update, batch, data_orders, [config.learning_rate])
