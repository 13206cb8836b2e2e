"""Cost of syre: in a whole training step, and in the optimizer's step alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticity.agents.networks.image import ImageNetwork, NetworkConfig
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.supervised.single import OPTIMIZERS, make_optimizer
from plasticity.mitigations import regularizer_settings
from plasticity.optim.regularizers import regularized
from plasticity.optim.settings import RegularizerSettings
from plasticity.scripts.bench.rows import Effort, Row, time_row
from plasticity.scripts.config.benchmarks import BENCHMARKS, benchmark_config
from plasticity.scripts.config.run_config import SupervisedRunConfig

_MNIST = benchmark_config("permuted-mnist", SupervisedRunConfig)
_SYRE = regularizer_settings([BENCHMARKS["permuted-mnist"].mitigation("syre")])

STRENGTH = _SYRE.strength
"""Strength of the decay on both sides: the benchmark's."""

SIGMA = _SYRE.sigma
"""Standard deviation of syre's anchor: the benchmark's."""

BATCH_SIZE = 64
"""Examples per step."""

OptimizerName = Literal["sgd", "adam"]

_CASES: tuple[tuple[str, OptimizerName, float], ...] = (
    ("SGD", "sgd", 0.0),
    ("SGD, momentum 0.9", "sgd", 0.9),
    ("Adam", "adam", 0.0),
)


def step_cnn(effort: Effort) -> list[Row]:
    """Measure a training step of the CNN of permuted-mnist, with syre against torch's weight_decay."""
    network = ImageNetwork((1, 28, 28), 10, _MNIST.network)
    return [
        _step_row("step_cnn", effort, network, case, goal=1.02, rounds=200, calls=5)
        for case in _CASES[1:]
    ]


def step_mlp(effort: Effort) -> list[Row]:
    """Measure a training step of an MLP of 3 x 2000, with syre against torch's weight_decay."""
    width = effort.size(2000, 50)
    config = NetworkConfig(architecture="mlp", hidden=(width,) * 3)
    network = ImageNetwork((1, 28, 28), 10, config)
    return [
        _step_row("step_mlp", effort, network, case, goal=1.05, rounds=60, calls=1)
        for case in _CASES
    ]


def _step_row(
    measurement: str,
    effort: Effort,
    network: nn.Module,
    case: tuple[str, OptimizerName, float],
    *,
    goal: float,
    rounds: int,
    calls: int,
) -> Row:
    label, name, momentum = case
    rate = _MNIST.agent.learning_rate if name == "sgd" else 1e-3
    config = ClassifierConfig(optimizer=name, learning_rate=rate, momentum=momentum)
    syre = RegularizerSettings("syre", STRENGTH, SIGMA, anchor_seed=0)
    our_network = copy.deepcopy(network).to(effort.device)
    our_optimizer = make_optimizer(our_network, config, syre)
    # In the same form as the trainer's: a fused step is faster than a plain one, with any decay.
    form = {key: our_optimizer.param_groups[0][key] for key in ("foreach", "fused")}
    extra: dict[str, Any] = {"momentum": momentum} if name == "sgd" else {}
    their_network = copy.deepcopy(network).to(effort.device)
    base: Any = OPTIMIZERS[name]
    their_optimizer = base(
        their_network.parameters(), lr=rate, weight_decay=STRENGTH, **extra, **form
    )
    comparison = effort.compare(
        training_step(our_network, our_optimizer, _batches(effort)),
        training_step(their_network, their_optimizer, _batches(effort)),
        rounds=rounds,
        calls=calls,
    )
    return time_row(measurement, f"{label}: syre vs weight_decay", comparison, goal)


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], tuple[Tensor, Tensor]],
) -> Callable[[], None]:
    """Return a function that does forward, backward and update on the next batch."""

    def step() -> None:
        images, labels = batches()
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _batches(effort: Effort) -> Callable[[], tuple[Tensor, Tensor]]:
    # Many batches in turn: a single one would be memorized, and its gradients would vanish.
    count = effort.size(100, 2)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, BATCH_SIZE, 1, 28, 28), generator=generator).to(effort.device)
    labels = torch.randint(0, 10, (count, BATCH_SIZE), generator=generator).to(effort.device)
    index = -1

    def next_batch() -> tuple[Tensor, Tensor]:
        nonlocal index
        index = (index + 1) % count
        return images[index], labels[index]

    return next_batch


# ---- the optimizer alone ----------------------------------------------------------------------------


def optimizer_step(effort: Effort) -> list[Row]:
    """Measure the optimizer's step alone on 10 M parameters, against torch's foreach and fused forms."""
    rows: list[Row] = []
    for form, goal in (("foreach", 1.5), ("fused", 2.5)):
        for label, name, momentum in _CASES:
            extra: dict[str, Any] = {form: True}
            extra |= {"momentum": momentum} if momentum else {}
            ours, theirs = optimizer_pair(effort, OPTIMIZERS[name], extra)
            comparison = effort.compare(ours.step, theirs.step, rounds=60)
            case = f"{label}: syre vs weight_decay, both {form}"
            plain_sgd = name == "sgd" and not momentum
            rows.append(time_row("optimizer_step", case, comparison, goal if plain_sgd else None))
    return rows


def optimizer_pair(
    effort: Effort, base: type[torch.optim.Optimizer], extra: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return two optimizers over equal parameters with constant gradients: with syre, and torch's own."""
    # The benchmark's own rate: a decay below the rounding error would take another code path.
    common = {"lr": _MNIST.agent.learning_rate, **extra}
    ours = regularized(base)(
        many_parameters(effort),
        regularizer="syre",
        strength=STRENGTH,
        sigma=SIGMA,
        anchor_seed=0,
        **common,
    )
    theirs = base(many_parameters(effort), **{**common, "weight_decay": STRENGTH})
    return ours, theirs


def many_parameters(effort: Effort) -> list[nn.Parameter]:
    """Return ten weight matrices of 1000 x 1000 (10 M parameters), with gradients."""
    side = effort.size(1000, 20)
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn((side, side), generator=generator).to(effort.device)

    parameters = [nn.Parameter(normal()) for _ in range(10)]
    for parameter in parameters:
        parameter.grad = normal()
    return parameters
